"""What every convolution here means: `lax.conv_general_dilated` over NHWC with kernels HWIO, and its transposes as JAX derives them."""

import jax

from jaxvision.kernels.bilinear import Maps
from jaxvision.kernels.geometry import Geometry


def forward(x, w, geometry: Geometry):
    return jax.lax.conv_general_dilated(
        x,
        w,
        window_strides=geometry.strides,
        padding=geometry.padding,
        rhs_dilation=geometry.dilation,
        feature_group_count=geometry.groups,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def input_grad(dy, w, geometry: Geometry):
    x = like(dy, (dy.shape[0], *geometry.size, w.shape[2] * geometry.groups))
    return jax.linear_transpose(lambda x: forward(x, w, geometry), x)(dy)[0]


def weight_grad(x, dy, geometry: Geometry):
    w = like(x, (*geometry.kernel, x.shape[-1] // geometry.groups, dy.shape[-1]))
    return jax.linear_transpose(lambda w: forward(x, w, geometry), w)(dy)[0]


def like(value, shape):
    """The type of an array of this shape that is like `value` in all else, also in the mesh axes of a `shard_map` over which it varies."""
    return jax.eval_shape(lambda v: jax.lax.broadcast(v[0, 0, 0, 0], shape), value)


REFERENCE = Maps(forward, input_grad, weight_grad)
