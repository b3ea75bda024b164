"""JPEG's lossy part inside the step: colour planes, cosine transform, quantization by the tables of the standard's annex K.

Within a few grey levels of libjpeg's integer arithmetic. The quality may be traced, one an image.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

# The quantization tables of the JPEG standard's annex K, for luma and chroma.
_LUMA = """16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"""
_CHROMA = "17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66" + " 99" * 38
_TO_YCC = np.asarray([[0.299, 0.587, 0.114], [-0.168735892, -0.331264108, 0.5], [0.5, -0.418687589, -0.081312411]], np.float32)
_COSINES = np.asarray([[math.sqrt((1 + (k > 0)) / 8) * math.cos((2 * i + 1) * k * math.pi / 16) for i in range(8)] for k in range(8)], np.float32)


def _steps(table: str, quality: Array) -> Float[Array, "b 1 1 8 8"]:
    base = np.asarray(table.split(), np.float32).reshape(8, 8)
    strength = jnp.where(quality < 50, jnp.floor(5000 / quality), 200 - 2 * quality)[:, None, None, None, None]
    return jnp.clip(jnp.floor((base * strength + 50) / 100), 1, 255)


def _quantized(plane: Float[Array, "b h w"], step: Float[Array, "b 1 1 8 8"]) -> Float[Array, "b h w"]:
    """A plane of grey levels, quantized in blocks of 8x8 and rounded; sides that are no multiple of 8 are continued by their last pixel."""
    height, width = plane.shape[1:]
    padded = jnp.pad(plane, ((0, 0), (0, -height % 8), (0, -width % 8)), mode="edge") - 128
    blocks = padded.reshape(len(plane), padded.shape[1] // 8, 8, padded.shape[2] // 8, 8)
    spectrum = jnp.einsum("ki,byixj,lj->byxkl", _COSINES, blocks, _COSINES)
    back = jnp.einsum("ki,byxkl,lj->byixj", _COSINES, jnp.round(spectrum / step) * step, _COSINES)
    return jnp.clip(jnp.round(back.reshape(padded.shape)[:, :height, :width] + 128), 0, 255)


def jpeg(image: Float[Array, "b h w c"], quality: int | Num[Array, "b"]) -> Float[Array, "b h w c"]:
    """Images in 0..1 as JPEG would give them back; not clipped. Qualities are whole numbers 1..100, one for all or one an image.

    Chroma has half the resolution, as Pillow writes by default; images of other than three channels are compressed a channel, as luma.
    """
    quality = jnp.broadcast_to(jnp.asarray(quality, jnp.float32), image.shape[:1])
    luma_steps, chroma_steps = _steps(_LUMA, quality), _steps(_CHROMA, quality)
    if image.shape[-1] != 3:
        return jnp.stack([_quantized(image[..., c] * 255, luma_steps) for c in range(image.shape[-1])], -1) / 255
    height, width = image.shape[1:3]
    ycc = jnp.round(jnp.einsum("bhwc,dc->bhwd", image * 255, _TO_YCC) + jnp.asarray([0, 128, 128]))
    luma, chroma = _quantized(ycc[..., 0], luma_steps), []
    for plane in (ycc[..., 1], ycc[..., 2]):
        even = jnp.pad(plane, ((0, 0), (0, height % 2), (0, width % 2)), mode="edge")
        halved = jnp.round(even.reshape(len(even), even.shape[1] // 2, 2, even.shape[2] // 2, 2).mean((2, 4)))
        whole = jax.image.resize(_quantized(halved, chroma_steps), even.shape, "linear")
        chroma.append(whole[:, :height, :width] - 128)
    return jnp.einsum("bhwd,cd->bhwc", jnp.stack([luma, *chroma], -1), np.linalg.inv(_TO_YCC).astype(np.float32)) / 255
