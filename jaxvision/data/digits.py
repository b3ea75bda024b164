"""scikit-learn's 1,797 handwritten digits, 8x8: real data that comes with the installation.

360 of them (a fifth, stratified, by a seed of its own) are the test set of every run, so that figures compare. Pixels 0..16 become 0..255.
"""

import numpy as np

from jaxvision.data.source import ArraySource, stratified_split
from jaxvision.errors import ConfigError, nearest

_TEST = 360
_SEED = 0  # of the split; not the run's


def open_digits(split: str) -> ArraySource:
    """The digits of split "train" (1,437) or "test" (360), or "all": image (N, 8, 8, 1) uint8, label (N,) int32."""
    from sklearn.datasets import load_digits  # 2 s to import, and only here

    digits = load_digits()
    train, test = stratified_split(digits.target, _TEST, _SEED)
    parts = {"train": train, "test": test, "all": np.arange(len(digits.target))}
    if split not in parts:
        raise ConfigError(f"digits has no split {split!r}; {nearest(split, parts)}")
    image = np.round(digits.images[parts[split]] * (255 / 16)).astype(np.uint8)[..., None]
    label = digits.target[parts[split]].astype(np.int32)
    return ArraySource(f"digits/{split}", {"image": image, "label": label}, tuple(str(name) for name in digits.target_names))
