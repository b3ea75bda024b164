"""Searches: procedures that train children and decide by what they reached. `--mode=search` runs the one that config.search.name says.

A search is a file of this folder with `make_search(config) -> propose`, and `propose(history) -> config or None` names the next child, or ends the
search. `history` is a list of dicts, one a finished child, with "number", "changes" (what its config differs in) and "metrics". It is a pure function
of that list, so a search that was interrupted goes on by reading it.
"""

from jaxvision.search.run import list_searches, make_search, search

__all__ = ["list_searches", "make_search", "search"]
