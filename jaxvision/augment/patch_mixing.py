"""Patch Mixing (Lee et al. 2023, arXiv 2306.17848): patches of a grid come from another image, labels are mixed by their share.

It teaches convolutional networks to ignore patches that are out of context, as transformers do. The share is drawn once a batch and rounded to
whole patches, the patches are drawn for every example; the partner is the batch reversed, as in `mix` (the paper does not say which).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxvision.augment.rows import row_keys
from jaxvision.errors import ConfigError


def patch_masks(key: Array, row: Int[Array, "b"], grid: tuple[int, int], patches: int | Int[Array, ""]) -> Bool[Array, "b gh gw"]:
    """For every row exactly `patches` cells of the grid, uniformly without replacement. `patches` may be traced."""
    cells = grid[0] * grid[1]
    rank = jax.vmap(lambda k: jax.random.permutation(k, cells))(row_keys(key, row))
    return (rank < patches).reshape(-1, *grid)


def mix_patches(
    image: Float[Array, "b h w c"], label: Float[Array, "b k"], mask: Bool[Array, "b gh gw"]
) -> tuple[Float[Array, "b h w c"], Float[Array, "b k"]]:
    """The partner's pixels where the mask holds, and labels mixed by the mask's mean.

    Raises:
      ConfigError: when the grid does not divide the image.
    """
    height, width = image.shape[1:3]
    grid = mask.shape[1:]
    if height % grid[0] or width % grid[1]:
        raise ConfigError(f"a grid of {grid} patches does not divide an image of {(height, width)}")
    pixels = jnp.repeat(jnp.repeat(mask, height // grid[0], axis=1), width // grid[1], axis=2)[..., None]
    share = mask.mean(axis=(1, 2), dtype=jnp.float32)[:, None]
    return jnp.where(pixels, image[::-1], image), label * (1 - share) + label[::-1] * share


def patch_mixing(
    key: Array, image: Float[Array, "b h w c"], label: Float[Array, "b k"], *, grid: tuple[int, int] = (7, 7), alpha: float = 0.3
) -> tuple[Float[Array, "b h w c"], Float[Array, "b k"]]:
    """Mixes each example with its partner in round(r * cells) patches, r from Beta(alpha, alpha), once for the batch."""
    share_key, mask_key = jax.random.split(key)
    cells = grid[0] * grid[1]
    patches = jnp.round(jax.random.beta(share_key, alpha, alpha) * cells).astype(jnp.int32)
    return mix_patches(image, label, patch_masks(mask_key, jnp.arange(image.shape[0]), grid, patches))
