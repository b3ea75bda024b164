"""Figures of whole splits of texts, on the host."""

import collections
import math
from collections.abc import Sequence


def bleu(predicted: Sequence[str], truth: Sequence[str], order: int = 4) -> float:
    """Corpus BLEU (Papineni et al. 2002) over words, one reference each, 0..1.

    The geometric mean of the precisions of 1- to `order`-grams, counted over all texts, times the penalty for brevity. Orders that no prediction is
    long enough for are left out; 0 where nothing agrees in some order.
    """
    hits, tries, lengths = collections.Counter(), collections.Counter(), [0, 0]
    for ours, theirs in zip(predicted, truth, strict=True):
        ours, theirs = ours.split(), theirs.split()
        lengths = [lengths[0] + len(ours), lengths[1] + len(theirs)]
        for n in range(1, order + 1):
            mine, wanted = (collections.Counter(zip(*(text[i:] for i in range(n)))) for text in (ours, theirs))
            hits[n] += (mine & wanted).total()
            tries[n] += mine.total()
    orders = [n for n in tries if tries[n]]
    if not orders or not all(hits[n] for n in orders):
        return 0.0
    precision = math.exp(sum(math.log(hits[n] / tries[n]) for n in orders) / len(orders))
    return precision * min(1.0, math.exp(1 - lengths[1] / lengths[0]))
