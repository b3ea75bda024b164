"""Occlusions that a classifier is judged by (Lee et al. 2023, arXiv 2306.17848; patch drop and permutation after Naseer et al. 2021, 2105.10497).

Patches out of context, dropped patches, shuffled tiles, and superimposed objects. All are pure functions of a key and of the examples' own numbers,
so a benchmark is the same in each evaluation and on any number of devices. The paper's superimposed objects are cut-outs that are not free to
redistribute: ours are ellipses of 10-30 % of the area, filled from pictures of another class.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxvision.augment.patch_mixing import patch_masks
from jaxvision.augment.rows import row_keys
from jaxvision.errors import ConfigError


def strangers(key: Array, row: Int[Array, "b"], label: Int[Array, "b"], valid: Bool[Array, "b"], count: int = 1) -> Int[Array, "b n"]:
    """`count` rows of the batch an example, drawn with replacement among those of another class; the example's own where there is none."""
    other = (label[:, None] != label[None]) & valid[None].astype(bool)
    own = jnp.arange(label.shape[0])
    drawn = jax.vmap(lambda k, allowed: jax.random.categorical(k, jnp.where(allowed, 0.0, -jnp.inf), shape=(count,)))(row_keys(key, row), other)
    return jnp.where(other.any(1)[:, None], drawn, own[:, None])


def _pixels(cells: Array, size: tuple[int, int]) -> Array:
    """(b, gh, gw, …) of cells -> the same of pixels. Raises ConfigError when the grid does not divide the image."""
    grid = cells.shape[1:3]
    if size[0] % grid[0] or size[1] % grid[1]:
        raise ConfigError(f"a grid of {tuple(grid)} patches does not divide an image of {tuple(size)}")
    return jnp.repeat(jnp.repeat(cells, size[0] // grid[0], axis=1), size[1] // grid[1], axis=2)


def replace_patches(
    key: Array, image: Float[Array, "b h w c"], row: Int[Array, "b"], source: Int[Array, "b n"], grid: tuple[int, int], share: float
) -> Float[Array, "b h w c"]:
    """round(share * cells) patches of the grid come from the row that `source` names: one for all patches (n = 1), or one a patch."""
    mask = patch_masks(key, row, grid, round(share * grid[0] * grid[1]))
    cells = jnp.broadcast_to(source, (source.shape[0], grid[0] * grid[1])).reshape(-1, *grid)
    which, (h, w) = _pixels(cells, image.shape[1:3]), image.shape[1:3]
    foreign = image[which, jnp.arange(h)[:, None], jnp.arange(w)]
    return jnp.where(_pixels(mask, (h, w))[..., None], foreign, image)


def drop_patches(key: Array, image: Float[Array, "b h w c"], row: Int[Array, "b"], grid: tuple[int, int], share: float) -> Float[Array, "b h w c"]:
    """round(share * cells) patches of the grid become 0, the mean colour of normalized images."""
    mask = patch_masks(key, row, grid, round(share * grid[0] * grid[1]))
    return jnp.where(_pixels(mask, image.shape[1:3])[..., None], 0.0, image)


def permute_tiles(key: Array, image: Float[Array, "b h w c"], row: Int[Array, "b"], side: int) -> Float[Array, "b h w c"]:
    """The side x side tiles of each image in a random order. Raises ConfigError when they do not divide it."""
    b, h, w, c = image.shape
    if h % side or w % side:
        raise ConfigError(f"{side}x{side} tiles do not divide an image of {(h, w)}")
    tiles = image.reshape(b, side, h // side, side, w // side, c).swapaxes(2, 3).reshape(b, side * side, h // side, w // side, c)
    order = jax.vmap(lambda k: jax.random.permutation(k, side * side))(row_keys(key, row))
    tiles = jnp.take_along_axis(tiles, order[:, :, None, None, None], axis=1)
    return tiles.reshape(b, side, side, h // side, w // side, c).swapaxes(2, 3).reshape(b, h, w, c)


def superimpose(
    key: Array, image: Float[Array, "b h w c"], row: Int[Array, "b"], source: Int[Array, "b"], area: tuple[float, float] = (0.1, 0.3)
) -> Float[Array, "b h w c"]:
    """An ellipse, anywhere inside, of a share of the area drawn from `area` and a ratio of axes in 1/2..2, showing the image of row `source`."""
    h, w = image.shape[1:3]

    def ellipse(k):
        share, ratio, y, x = jax.random.uniform(k, (4,))
        product = (area[0] + share * (area[1] - area[0])) * h * w / jnp.pi  # of the half axes
        tall = jnp.minimum(jnp.sqrt(product * 2 ** (2 * ratio - 1)), h / 2)
        wide = jnp.minimum(product / tall, w / 2)
        top, left = tall + y * (h - 2 * tall), wide + x * (w - 2 * wide)
        rows, columns = jnp.arange(h)[:, None] + 0.5, jnp.arange(w) + 0.5
        return ((rows - top) / tall) ** 2 + ((columns - left) / wide) ** 2 <= 1

    return jnp.where(jax.vmap(ellipse)(row_keys(key, row))[..., None], image[source], image)
