"""Digits as other cameras see them, for methods that learn from views: raw pixels then tell little, and what the views share is the digit."""

import jax
import jax.numpy as jnp

from jaxvision.tasks.ssl import dino, moco, simclr, swav

SIDE = 8


def as_seen(key, image):
    """Digits (n, 64) in 0..1 as other cameras see them: either polarity, another slope of light, contrast, brightness, place and grain."""

    def one(key, image):
        place, light, polarity, contrast, brightness, grain = jax.random.split(key, 6)
        image = jnp.roll(image.reshape(SIDE, SIDE), jax.random.randint(place, (2,), -1, 2), (0, 1)) - 0.5
        y, x = jnp.mgrid[:SIDE, :SIDE] / (SIDE - 1) - 0.5
        down, right = 0.5 * jax.random.normal(light, (2,))
        image = image * jnp.where(jax.random.bernoulli(polarity), 1, -1) * jax.random.uniform(contrast, minval=0.5) + down * y + right * x
        return (image + 0.15 * jax.random.normal(brightness) + 0.1 * jax.random.normal(grain, image.shape)).ravel()

    return jax.vmap(one)(jax.random.split(key, len(image)), image)


class _Lit:
    """Views and evaluated pictures are seen so, an evaluated one always in one way. `mixed`: the views of a row are of different digits."""

    mixed = False

    def prepare(self, batch, key, *, train):
        seen = lambda key: as_seen(key, image.reshape(len(image), -1)).reshape(image.shape)
        image = batch["image"].astype(jnp.float32) / 255
        batch = super().prepare(batch, key, train=train)
        if not train:
            return batch | {"image": seen(jax.random.key(len(image)))}
        views = [seen(jax.random.fold_in(key, number)) for number in range(len(self.views))]
        return batch | {"views": tuple(jnp.roll(view, number, axis=0) if self.mixed else view for number, view in enumerate(views))}


class SimCLR(_Lit, simclr.SimCLR):
    pass


class MoCo(_Lit, moco.MoCo):
    pass


class SwAV(_Lit, swav.SwAV):
    pass


class DINO(_Lit, dino.DINO):
    pass


class MixedSimCLR(SimCLR):
    mixed = True


class MixedMoCo(MoCo):
    mixed = True


class MixedSwAV(SwAV):
    mixed = True


class MixedDINO(DINO):
    mixed = True
