"""Inception blocks stacked with and without residual connections, for small images: the comparison of Szegedy et al. 2016 (arXiv 1602.07261) in
miniature, and nothing that was published under a name.

A plain block concatenates its branches; a residual one adds a linear 1x1 expansion of them, times a scale, to its input. Branches are 1x1, 1x1-3x3
and 1x1-3x3-3x3, with an average pool and 1x1 as the fourth of a plain block, so that four equal branches give the width of the trunk.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.errors import ModelError
from jaxvision.models.inception_resnet import Block
from jaxvision.models.inception_v4 import conv_unit
from jaxvision.models.registry import Variant
from jaxvision.nn.blocks import quarters
from jaxvision.nn.branches import MEAN, Branch, Branches, Step
from jaxvision.nn.classifier import Classifier, global_mean


def table(branch: int, pooled: bool) -> tuple[Branch, ...]:
    """The branches of a block, `branch` channels each."""
    one, three = Step(1, 1, branch), Step(3, 3, branch)
    return ((one,), (one, three), (one, three, three), *(((MEAN, one),) if pooled else ()))


class InceptionStack(nn.Module):
    """A 3x3 stem, `depth` blocks at the resolution of the image, global mean, one dense layer.

    Attributes:
      width: channels of the trunk, a multiple of 4; a branch has a quarter.
      residual: residual blocks instead of plain ones. scale: of their branches.
      momentum: of the running statistics. norm_groups: see `BatchNorm.groups`. remat: recompute each block in the backward pass.
    """

    num_classes: int = 10
    image_size: tuple[int, int] = (8, 8)
    width: int = 32
    depth: int = 16
    residual: bool = True
    scale: float = 1.0
    drop_path: float = 0.0
    momentum: float = 0.9
    norm_groups: int = 1
    remat: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __call__(self, image: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b classes"]:
        """Logits in float32, or the pooled features when num_classes is 0."""
        return self.forward(image, train, head=True)

    def stages(self, image: Float[Array, "b h w c"], *, train: bool = False) -> tuple[Array, ...]:
        """The map after each quarter of the depth, all of the image's size."""
        return self.forward(image, train, head=False)

    @nn.compact
    def forward(self, image, train: bool, head: bool):
        if self.width % 4:
            raise ModelError(f"model.width={self.width} is not a multiple of 4, the number of branches of a plain block")
        unit = conv_unit(self.dtype, self.param_dtype, self.momentum, self.norm_groups)
        x = unit(self.width, 3, 1, name="stem")(image, train)
        plain, residual = (nn.remat(kind, static_argnums=(2,)) if self.remat else kind for kind in (Branches, Block))
        maps = []
        for i in range(self.depth):
            if self.residual:
                x = residual(table(self.width // 4, False), unit, self.scale, self.drop_path, name=f"blocks_{i}")(x, train)
            else:
                x = plain(table(self.width // 4, True), unit, name=f"blocks_{i}")(x, train)
            maps.append(x)
        if not head:
            return tuple(maps[i] for i in quarters(self.depth))
        x = global_mean(x)
        return Classifier(self.num_classes, param_dtype=self.param_dtype, name="head")(x) if self.num_classes else x


SMALL = {"image_size": (8, 8), "mean": (0.5,), "std": (0.5,), "crop": 1.0, "classes": 10}
VARIANTS = {
    "inception_stack": Variant(InceptionStack, {"residual": False}, **SMALL),
    "inception_resnet_stack": Variant(InceptionStack, {"residual": True}, **SMALL),
}
