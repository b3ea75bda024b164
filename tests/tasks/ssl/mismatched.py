"""Methods whose views come from different pictures: what a loss that ignores the pairing would learn from."""

import jax.numpy as jnp

from jaxvision.tasks.ssl import dino, moco, simclr, swav


class _Mismatched:
    def prepare(self, batch, key, *, train):
        batch = super().prepare(batch, key, train=train)
        if train:
            batch["views"] = tuple(jnp.roll(view, number, axis=0) for number, view in enumerate(batch["views"]))
        return batch


class SimCLR(_Mismatched, simclr.SimCLR):
    pass


class MoCo(_Mismatched, moco.MoCo):
    pass


class SwAV(_Mismatched, swav.SwAV):
    pass


class DINO(_Mismatched, dino.DINO):
    pass
