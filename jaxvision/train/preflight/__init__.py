"""What a run would do on a machine that is not there: compiled ahead for its topology, from shapes alone.

`preflight` compiles every program of a run (each phase of a curriculum, evaluation, init; every stage) as the run itself would, prints one page and
writes preflight.json. `hlo` reads a compiled program, `price` says what it would take.
"""

from jaxvision.train.preflight.mode import preflight

__all__ = ["preflight"]
