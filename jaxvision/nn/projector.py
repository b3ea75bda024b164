"""What self-supervised methods put on a backbone: a small perceptron, and prototypes that its unit outputs are compared with.

`HEADS` are the published perceptrons. A layer is (width, what follows it, whether it has a bias); a width of None is that of the features.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.errors import ConfigError, nearest
from jaxvision.nn.classifier import torch_bias, torch_kernel
from jaxvision.nn.mlp import gelu
from jaxvision.nn.norm import BatchNorm
from jaxvision.nn.pointwise import Dense

Layers = tuple[tuple[int | None, str, bool], ...]
HEADS: dict[str, Layers] = {
    "moco_v2": ((None, "relu", True), (128, "", True)),
    "simclr": ((None, "bn_relu", False), (128, "bn_scale", False)),
    "swav": ((2048, "bn_relu", True), (128, "", True)),
    "dino": ((2048, "gelu", True), (2048, "gelu", True), (256, "", True)),
    "dcl": ((512, "bn_relu", False), (128, "", True)),
    "nnclr": ((2048, "bn_relu", True), (2048, "bn_relu", True), (256, "bn", True)),
    "nnclr_predictor": ((4096, "bn_relu", True), (256, "", True)),
    "surgical": ((2048, "bn_relu", True), (256, "", True), (4096, "", True)),
    "surgical_prototypes": ((2048, "bn_relu", True), (256, "", True)),
}
AFTER = ("", "relu", "gelu", "bn_relu", "bn_gelu", "bn", "bn_scale")
# Initial values of kernels and biases: PyTorch's own, those of DINO's head, those of SimCLR's.
INITIALIZERS: dict[str, tuple[Callable, Callable | None]] = {
    "torch": (torch_kernel, None),
    "dino": (nn.initializers.truncated_normal(0.02), nn.initializers.zeros),
    "simclr": (nn.initializers.normal(0.01), nn.initializers.zeros),
}


def read_layers(head: str | Sequence, key: str = "head") -> Layers:
    """The layers of a name in HEADS, or of ((width, "bn_relu"), …) as config.task.<key> has them. Raises ConfigError for what is neither."""
    if isinstance(head, str):
        if head not in HEADS:
            raise ConfigError(f"task.{key} {head!r} is unknown; {nearest(head, HEADS)}")
        return HEADS[head]
    layers = tuple((*layer, True)[:3] if 2 <= len(layer) <= 3 else () for layer in head)
    for layer in layers:
        if not layer or layer[1] not in AFTER:
            raise ConfigError(f"task.{key}: a layer is (width, one of {', '.join(map(repr, AFTER))}, bias or not), got {layer!r}")
    return layers


def unit(x: Float[Array, "... d"]) -> Float[Array, "... d"]:
    """float32 of length 1; a vector shorter than 1e-12 stays as short, in relation."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    square = jnp.square(wide).sum(-1, keepdims=True)
    # The root of zero has no derivative.
    return wide / jnp.maximum(jnp.sqrt(jnp.where(square > 0, square, 1.0)) * (square > 0), 1e-12)


class Projector(nn.Module):
    """The perceptron: layers `fc1`, `fc2`, …, their batch norms `bn1`, …. `norm_groups` is BatchNorm's."""

    layers: Layers
    initializer: str = "torch"
    norm_groups: int = 1
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b d"], *, train: bool = False) -> Float[Array, "b e"]:
        if self.initializer not in INITIALIZERS:
            raise ConfigError(f"task.head_init {self.initializer!r} is unknown; {nearest(self.initializer, INITIALIZERS)}")
        kernel_init, bias_init = INITIALIZERS[self.initializer]
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        for number, (width, after, bias) in enumerate(self.layers, 1):
            dense = functools.partial(Dense, use_bias=bias, kernel_init=kernel_init, bias_init=bias_init or torch_bias(x.shape[-1]), **types)
            x = dense(width or x.shape[-1], name=f"fc{number}")(x)
            norm, _, function = after.rpartition("_") if after != "bn" else ("bn", "", "")
            if norm:
                shift = function != "scale"
                x = BatchNorm(groups=self.norm_groups, use_bias=shift, name=f"bn{number}", **types)(x, train=train)
            x = {"relu": nn.relu, "gelu": gelu}.get(function, lambda x: x)(x)
        return x


class Prototypes(nn.Module):
    """Scores of unit vectors against `count` prototypes, in float32.

    Attributes:
      kind: "unit": the kernel's columns are the prototypes, which the method keeps at length 1 (SwAV); "fixed": its columns are brought to length
        1 here, as PyTorch's weight norm with a gain of 1; "gain": the same times a trained gain each (DINO).
    """

    count: int
    kind: str = "unit"
    initializer: str = "torch"
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, z: Float[Array, "b d"]) -> Float[Array, "b p"]:
        kernel = self.param("kernel", INITIALIZERS[self.initializer][0], (z.shape[-1], self.count), self.param_dtype).astype(jnp.float32)
        if self.kind != "unit":
            kernel = unit(kernel.T).T
        if self.kind == "gain":
            kernel = kernel * self.param("gain", nn.initializers.ones, (self.count,), self.param_dtype).astype(jnp.float32)
        return jnp.matmul(z.astype(jnp.float32), kernel, precision="highest")


class Projected(nn.Module):
    """Backbone, perceptron, and prototypes or a second perceptron that predicts from the first one's output, applied to several views of each picture
    at once.

    Neighbouring views of one size go through the backbone together, the views of a picture side by side, so that a cut of the batch (over
    devices, into the groups of a batch norm) keeps them together; the perceptron sees all views at once.
    """

    backbone: nn.Module
    projector: Projector
    prototypes: Prototypes | None = None
    predictor: Projector | None = None

    def __call__(self, views: Sequence[Float[Array, "b h w c"]], *, train: bool = False) -> tuple[Float[Array, "b v e"], Any]:
        """(projections in float32, not normalized; scores (b, v, p) of the normalized ones, or predictions (b, v, e), None without either).

        Of one array of images, instead of a tuple of views, it is `features`: what an exported or reloaded network gives.
        """
        if not isinstance(views, tuple | list):
            return self.features(views)
        features = jnp.concatenate([self._encode(group, train) for group in by_size(views)], axis=1)
        batch, count, width = features.shape
        y = self.projector(features.reshape(-1, width), train=train).astype(jnp.float32)
        above = None
        if self.predictor is not None:
            above = self.predictor(y.astype(self.predictor.dtype), train=train).astype(jnp.float32)
        elif self.prototypes is not None:
            above = self.prototypes(unit(y))
        return y.reshape(batch, count, -1), None if above is None else above.reshape(batch, count, -1)

    def features(self, image: Float[Array, "b h w c"]) -> Float[Array, "b d"]:
        """What the backbone gives without its head, in evaluation."""
        return self.backbone(image, train=False).astype(jnp.float32)

    def _encode(self, group, train: bool):
        stacked = jnp.stack(group, axis=1)
        flat = self.backbone(stacked.reshape(-1, *stacked.shape[2:]), train=train)
        return flat.reshape(*stacked.shape[:2], -1)


def by_size(views: Sequence[Array]) -> list[list[Array]]:
    """Neighbouring views of one shape together."""
    groups: list[list[Array]] = []
    for view in views:
        if not groups or groups[-1][0].shape != view.shape:
            groups.append([])
        groups[-1].append(view)
    return groups
