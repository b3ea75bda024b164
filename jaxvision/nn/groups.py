"""Groups of tokens of a volume for attention: neighbours (windows in 3-D), tokens at a stride over the whole volume, and shifted windows.

D-Former (Wu et al. 2022, arXiv 2201.00462) alternates the first two: its Local and its Global Scope Module. The third is Swin's (arXiv 2103.14030).
All sizes are static; what depends on them alone is computed by numpy while tracing.
"""

import dataclasses
import itertools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

Size = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Groups:
    """A cut of volumes of one size into groups of equal shape.

    Attributes:
      size: (D, H, W) of the tokens.
      padded: (D, H, W) that they are padded to at the far ends.
      group: tokens of a group along each axis.
      dilated: whether a group's tokens are `padded // group` apart; else they are neighbours.
      shift: by how much the padded volume is rolled before it is cut, each axis; tokens that the roll made neighbours do not see each other.
      masked: whether padding is hidden from attention.
    """

    size: Size
    padded: Size
    group: Size
    dilated: bool = False
    shift: Size = (0, 0, 0)
    masked: bool = True

    @property
    def counts(self) -> Size:
        """Groups along each axis, for dilated ones the stride between tokens of one group."""
        return tuple(p // g for p, g in zip(self.padded, self.group))

    @property
    def tokens(self) -> int:
        """Of one group."""
        return int(np.prod(self.group))

    def cut(self, x: Float[Array, "b d h w c"]) -> Float[Array, "b n t c"]:
        """The groups, each a row-major list of its tokens; padding is zeros."""
        x = jnp.pad(x, ((0, 0), *((0, p - s) for p, s in zip(self.padded, self.size)), (0, 0)))
        if any(self.shift):
            x = jnp.roll(x, tuple(-s for s in self.shift), (1, 2, 3))
        return _cut(x, self)

    def join(self, groups: Float[Array, "b n t c"]) -> Float[Array, "b d h w c"]:
        """The inverse of `cut`."""
        b, _, _, c = groups.shape
        x = groups.reshape(b, *self.counts, *self.group, c)
        # Axis by axis: (token of the group, number of the group) for dilated groups, the other way round for neighbours.
        order = [axis for pair in zip((4, 5, 6), (1, 2, 3)) for axis in (pair if self.dilated else pair[::-1])]
        x = x.transpose(0, *order, 7).reshape(b, *self.padded, c)
        if any(self.shift):
            x = jnp.roll(x, self.shift, (1, 2, 3))
        return x[:, : self.size[0], : self.size[1], : self.size[2]]

    def mask(self) -> Bool[np.ndarray, "n 1 t t"] | None:
        """Which tokens a token may look at; None where all of its group."""
        hidden = self.masked and self.padded != self.size
        if not hidden and not any(self.shift):
            return None
        seen, part = np.zeros(self.padded, bool), np.zeros(self.padded, np.int32)
        seen[tuple(slice(0, s if hidden else p) for s, p in zip(self.size, self.padded))] = True
        for axis, (p, g, s) in enumerate(zip(self.padded, self.group, self.shift)):
            own = np.zeros(p, np.int32)
            if s:
                own[p - g : p - s], own[p - s :] = 1, 2
            part = 3 * part + own.reshape([-1 if i == axis else 1 for i in range(3)])
        seen = np.roll(seen, tuple(-s for s in self.shift), (0, 1, 2))
        seen, part = (_cut(x[None, ..., None], self)[0, ..., 0] for x in (seen, part))
        return ((part[:, :, None] == part[:, None, :]) & seen[:, None, :])[:, None]


def _cut(x, groups: Groups):
    """Numpy or JAX arrays (B, D, H, W, C) of the padded size, already rolled."""
    b, c = x.shape[0], x.shape[-1]
    shape = [pair if not groups.dilated else pair[::-1] for pair in zip(groups.counts, groups.group)]
    first = 2 if groups.dilated else 1
    numbers, tokens = (range(first, 7, 2), range(3 - first, 7, 2))
    x = x.reshape(b, *itertools.chain(*shape), c).transpose(0, *numbers, *tokens, 7)
    return x.reshape(b, -1, groups.tokens, c)


def local_groups(size: Size, group: Size) -> Groups:
    """Contiguous groups of `group` tokens; one group of all tokens where they have fewer rows than a group (H alone decides, as published)."""
    if size[1] < group[1]:
        return Groups(size, size, size)
    return Groups(size, tuple(_up(s, g) for s, g in zip(size, group)), group)


def dilated_groups(size: Size, group: Size, interval: int) -> Groups:
    """Groups that span the whole volume, `group` tokens where that divides it; `interval` decides what the size is padded to, as published.

    The stride along an axis is padded // group, and at least 1; a group has padded // stride tokens. One group of all tokens as `local_groups` has.
    An axis that is no whole number of strides, which the published code refuses, is padded further. Padding along the depth alone is not hidden.
    """
    if size[1] < group[1]:
        return Groups(size, size, size)
    first = tuple(_up(s, interval) for s in size)
    stride = tuple(max(1, p // g) for p, g in zip(first, group))
    padded = tuple(_up(p, s) for p, s in zip(first, stride))
    masked = padded != first or padded[1:] != size[1:]
    return Groups(size, padded, tuple(p // s for p, s in zip(padded, stride)), dilated=True, masked=masked)


def shifted_groups(size: Size, group: Size) -> Groups:
    """`local_groups` of the volume rolled by half a group along each axis that has more than one group."""
    plain = local_groups(size, group)
    return dataclasses.replace(plain, shift=tuple(g // 2 if n > 1 else 0 for g, n in zip(plain.group, plain.counts)))


def token_numbers(groups: Groups) -> Int[np.ndarray, "n t"]:
    """The row-major number of each token in the padded volume, group by group."""
    numbers = np.arange(int(np.prod(groups.padded))).reshape(groups.padded)
    numbers = np.roll(numbers, tuple(-s for s in groups.shift), (0, 1, 2))
    return _cut(numbers[None, ..., None], groups)[0, ..., 0]


def _up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple
