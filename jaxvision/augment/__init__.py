"""Augmentation inside the training step: pure functions of (key, images). `make_augment` reads `config.augment`."""

from jaxvision.augment.pipeline import Augment, make_augment

__all__ = ["Augment", "make_augment"]
