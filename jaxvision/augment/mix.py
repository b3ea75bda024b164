"""Mixup (Zhang et al. 2018, arXiv 1710.09412) and CutMix (Yun et al. 2019, arXiv 1905.04899) in timm's batch mode, and Patch Mixing beside them.

Example i is paired with example B-1-i; one draw serves the batch. Both are one weighted sum of the batch and its mirror: the weight is a number for
mixup and a mask for CutMix. Label smoothing is the task's. `mix_examples` is mixup as restoration has it: a share and a random partner an example.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxvision.augment.erasing import Box
from jaxvision.augment.patch_mixing import patch_mixing
from jaxvision.augment.rows import row_keys


def mixup(image: Float[Array, "b h w c"], label: Float[Array, "b k"], share: Float[Array, ""]) -> tuple[Array, Array]:
    """`share` of each example and the rest of its partner, in image and label."""
    return _sum_of_pairs(image, share), _sum_of_pairs(label, share)


def cutmix(image: Float[Array, "b h w c"], label: Float[Array, "b k"], box: Box) -> tuple[Array, Array]:
    """The partner's pixels inside the box; labels mixed by the area that was really exchanged."""
    keep = 1.0 - box.mask(*image.shape[1:3])
    return _sum_of_pairs(image, keep), _sum_of_pairs(label, keep.mean())


def cutmix_box(key: Array, share: Float[Array, ""], height: int, width: int) -> Box:
    """A box of sides sqrt(1 - share) of the image's around a uniform centre, clipped at the border."""
    ratio = jnp.sqrt(1 - share)
    centre = jax.random.randint(key, (2,), 0, jnp.asarray([height, width]))
    half = jnp.floor(ratio * jnp.asarray([height, width])).astype(jnp.int32) // 2
    low, high = jnp.maximum(centre - half, 0), jnp.minimum(centre + half, jnp.asarray([height, width]))
    return Box(low[0], high[0], low[1], high[1])


def mix_batch(
    key: Array,
    image: Float[Array, "b h w c"],
    label: Float[Array, "b k"],
    *,
    mixup_alpha: float,
    cutmix_alpha: float,
    probability: float = 1.0,
    switch_probability: float = 0.5,
    patch_alpha: float = 0.0,
    patch_grids: tuple[tuple[int, int], ...] = (),
) -> tuple[Array, Array]:
    """timm's lottery: with `probability` the batch is mixed; where both alphas are positive, by CutMix with `switch_probability`.

    The share comes from Beta(alpha, alpha); CutMix corrects it by the area of the clipped box. An alpha of 0 switches a method off. Where Patch
    Mixing is on, it serves as many batches as each of the others would if all were equally likely; one of `patch_grids` is drawn.
    """
    if patch_alpha > 0:
        choice_key, happens_key, patch_key, key = jax.random.split(key, 4)
        methods = 1 + (mixup_alpha > 0) + (cutmix_alpha > 0)
        choice = jax.random.randint(choice_key, (), 0, methods * len(patch_grids))
        choice = jnp.where(jax.random.bernoulli(happens_key, probability), jnp.minimum(choice, len(patch_grids)), len(patch_grids) + 1)
        branches = [lambda x, y, grid=grid: patch_mixing(patch_key, x, y, grid=grid, alpha=patch_alpha) for grid in patch_grids]
        others = {"mixup_alpha": mixup_alpha, "cutmix_alpha": cutmix_alpha, "switch_probability": switch_probability}
        branches += [lambda x, y: mix_batch(key, x, y, **others), lambda x, y: (x, y)]
        return jax.lax.switch(choice, branches, image, label)
    if mixup_alpha <= 0 and cutmix_alpha <= 0:
        return image, label
    happens_key, switch_key, mixup_key, cutmix_key, box_key = jax.random.split(key, 5)
    weight, share = 1.0, 1.0
    if mixup_alpha > 0:
        weight = share = _symmetric_beta(mixup_key, mixup_alpha)
    if cutmix_alpha > 0:
        box = cutmix_box(box_key, _symmetric_beta(cutmix_key, cutmix_alpha), *image.shape[1:3])
        keep = 1.0 - box.mask(*image.shape[1:3])
        cut = jax.random.bernoulli(switch_key, switch_probability) if mixup_alpha > 0 else True
        weight, share = jnp.where(cut, keep, weight), jnp.where(cut, keep.mean(), share)
    happens = jax.random.bernoulli(happens_key, probability)
    weight, share = jnp.where(happens, weight, 1.0), jnp.where(happens, share, 1.0)
    return _sum_of_pairs(image, weight), _sum_of_pairs(label, share)


def mix_examples(key: Array, arrays: tuple[Array, ...], row: Int[Array, "b"], alpha: float) -> tuple[Array, ...]:
    """Arrays (B, …), in each of which example i became share_i of itself and the rest of a random other one, share_i from Beta(alpha, alpha).

    Shares and partners are those of all arrays, so pairs of pictures stay pairs.
    """
    partner_key, share_key = jax.random.split(key)
    partner = jax.random.permutation(partner_key, len(row))
    share = jax.vmap(lambda k: _symmetric_beta(k, alpha))(row_keys(share_key, row))
    shares = (share.reshape(-1, *(1,) * (x.ndim - 1)) for x in arrays)
    return tuple(s * x + (1 - s) * x[partner] for s, x in zip(shares, arrays))


def _sum_of_pairs(x: Array, weight: Array) -> Array:
    weight = jnp.asarray(weight, x.dtype)
    return x * weight + x[::-1] * (1 - weight)


def _symmetric_beta(key: Array, alpha: float) -> Float[Array, ""]:
    return jax.random.uniform(key) if alpha == 1 else jax.random.beta(key, alpha, alpha)
