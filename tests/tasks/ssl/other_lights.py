"""Digits as other cameras see them, for methods that learn from views: raw pixels then tell little, and what the views share is the digit."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxvision.tasks.ssl import dino, moco, simclr, swav

SIDE = 8


class Light(NamedTuple):
    """What differs between two sights of a digit: polarity, its place by up to `shift` pixels, and the deviations of slope, brightness and grain."""

    polarity: bool = True
    shift: int = 1
    slope: float = 0.5
    brightness: float = 0.15
    grain: float = 0.1


OTHER = Light()
# Of one polarity, and nothing moves: stronger light, through which a linear map of the pixels sees the digit all the same.
STEADY = Light(polarity=False, shift=0, slope=1.0, brightness=0.5, grain=0.03)


def as_seen(key, image, differs: Light = OTHER):
    """Digits (n, 64) in 0..1 as other cameras see them: either polarity, another slope of light, contrast, brightness, place and grain."""

    def one(key, image):
        place, light, polarity, contrast, brightness, grain = jax.random.split(key, 6)
        image = jnp.roll(image.reshape(SIDE, SIDE), jax.random.randint(place, (2,), -differs.shift, differs.shift + 1), (0, 1)) - 0.5
        y, x = jnp.mgrid[:SIDE, :SIDE] / (SIDE - 1) - 0.5
        down, right = differs.slope * jax.random.normal(light, (2,))
        sign = jnp.where(jax.random.bernoulli(polarity) | (not differs.polarity), 1, -1)
        image = image * sign * jax.random.uniform(contrast, minval=0.5) + down * y + right * x
        return (image + differs.brightness * jax.random.normal(brightness) + differs.grain * jax.random.normal(grain, image.shape)).ravel()

    return jax.vmap(one)(jax.random.split(key, len(image)), image)


class _Lit:
    """Views and evaluated pictures are seen so, an evaluated one always in one way."""

    def prepare(self, batch, key, *, train):
        seen = lambda key: as_seen(key, image.reshape(len(image), -1), self.differs).reshape(image.shape)
        image = batch["image"].astype(jnp.float32) / 255
        batch = super().prepare(batch, key, train=train)
        if not train:
            return batch | {"image": seen(jax.random.key(len(image)))}
        views = [seen(jax.random.fold_in(key, number)) for number in range(len(self.views))]
        return batch | {"views": tuple(jnp.roll(view, number, axis=0) if self.mixed else view for number, view in enumerate(views))}


def _lit(method: type, differs: Light, *, mixed: bool = False) -> type:
    """The task in such light. mixed: the views of a row are of different digits."""
    return type(method.__name__, (_Lit, method), {"differs": differs, "mixed": mixed, "__module__": __name__})


SimCLR, MixedSimCLR = _lit(simclr.SimCLR, OTHER), _lit(simclr.SimCLR, OTHER, mixed=True)
MoCo, MixedMoCo = _lit(moco.MoCo, OTHER), _lit(moco.MoCo, OTHER, mixed=True)
SteadySwAV, MixedSteadySwAV = _lit(swav.SwAV, STEADY), _lit(swav.SwAV, STEADY, mixed=True)
SteadyDINO, MixedSteadyDINO = _lit(dino.DINO, STEADY), _lit(dino.DINO, STEADY, mixed=True)
