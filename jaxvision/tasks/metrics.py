"""Metrics of whole splits, on the host, by scikit-learn. It is imported at first use: it takes a second, and most runs need none of these."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxvision.errors import DataError


def auc(label: Bool[np.ndarray, "n"], score: Float[np.ndarray, "n"]) -> float:
    """Area under the ROC curve of one yes-or-no question, ties counted half; nan where only one answer occurs."""
    from sklearn.metrics import roc_auc_score

    label = np.asarray(label).astype(bool)
    return float(roc_auc_score(label, score)) if 0 < label.sum() < len(label) else float("nan")


def macro_auc(target: Bool[np.ndarray, "n k"], scores: Float[np.ndarray, "n k"]) -> float:
    """Mean over classes of each class against the rest; classes with one answer only are left out. Of two exclusive classes it is the binary area.

    Raises DataError when no class has both answers.
    """
    areas = [auc(target[:, k], scores[:, k]) for k in range(target.shape[1])]
    if np.isnan(areas).all():
        raise DataError("the area under the curve needs examples with and without a class; the test data have none such for any class")
    return float(np.nanmean(areas))


def mean_average_precision(target: Bool[np.ndarray, "n k"], scores: Float[np.ndarray, "n k"]) -> float:
    """Mean over classes of the area below precision against recall, in steps; classes that never occur are left out.

    Raises DataError when none occurs.
    """
    from sklearn.metrics import average_precision_score

    present = [k for k in range(target.shape[1]) if target[:, k].any()]
    if not present:
        raise DataError("average precision needs examples of a class; the test data have none of any class")
    return float(np.mean([average_precision_score(target[:, k], scores[:, k]) for k in present]))


def quadratic_kappa(label: Int[np.ndarray, "n"], predicted: Int[np.ndarray, "n"], classes: int) -> float:
    """Cohen's kappa with quadratic weights, of ordered classes 0 … classes - 1: 1 is agreement, 0 what chance gives.

    0 when all labels and predictions are one class, where scikit-learn gives no number.
    """
    from sklearn.metrics import cohen_kappa_score

    if len(np.union1d(label, predicted)) < 2:
        return 0.0
    return float(cohen_kappa_score(label, predicted, labels=np.arange(classes), weights="quadratic"))


def bootstrap(
    statistic: Callable[..., float], arrays: Sequence[np.ndarray], *, resamples: int = 1000, share: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval that holds `share` of the statistic over samples of the examples with replacement; samples without a value are left out.

    `statistic` takes the arrays, whose first axes count the same examples.
    """
    random, count = np.random.RandomState(seed), len(arrays[0])
    values = []
    for _ in range(resamples):
        chosen = random.randint(0, count, count)
        values.append(statistic(*(array[chosen] for array in arrays)))
    low, high = np.nanpercentile(values, [50 * (1 - share), 50 * (1 + share)])
    return float(low), float(high)


def sensitivity_at(label: Bool[np.ndarray, "n"], score: Float[np.ndarray, "n"], specificity: float) -> float:
    """Largest share of positives found at a threshold where at least `specificity` of the negatives are passed over."""
    from sklearn.metrics import roc_curve

    false_positives, found, _ = roc_curve(np.asarray(label).astype(bool), score)
    return float(found[false_positives <= 1 - specificity + 1e-12].max())


def entropy(probability: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Predictive entropy of a yes-or-no answer in nats, -p log p - (1 - p) log(1 - p): 0 at certainty, log 2 at one half."""
    p = np.asarray(probability, np.float64)
    parts = [np.where(q > 0, -q * np.log(np.where(q > 0, q, 1)), 0.0) for q in (p, 1 - p)]
    return parts[0] + parts[1]
