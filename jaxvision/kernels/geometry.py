"""Where the taps of a two-dimensional convolution lie."""

import dataclasses
from collections.abc import Sequence

import jax

from jaxvision.errors import ModelError

Pair = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Everything static about a convolution: sizes (rows, columns), and pixels of padding ((top, bottom), (left, right))."""

    size: Pair
    kernel: Pair
    strides: Pair
    dilation: Pair
    padding: tuple[Pair, Pair]
    groups: int

    @property
    def output(self) -> Pair:
        """(rows, columns) of the result; below 1 where the kernel does not fit the image."""
        sides = zip(self.size, self.reach, self.strides, self.padding)
        return tuple((n + low + high - reach) // stride + 1 for n, reach, stride, (low, high) in sides)

    @property
    def known(self) -> bool:
        """Whether all sizes are numbers (an exported program may leave them open) and there is a result at all."""
        return all(isinstance(n, int) for n in self.size) and min(self.output) > 0

    @property
    def reach(self) -> Pair:
        """Pixels from the first tap to the last, both included."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation))


def pair(value: int | Sequence[int]) -> Pair:
    """(rows, columns) given as one number or two."""
    return (value, value) if isinstance(value, int) else tuple(value)


def geometry(x, kernel, strides, padding, dilation, groups: int) -> Geometry:
    """The geometry of a call, after checking that channels, groups and kernel go together. Raises ModelError where they do not."""
    if x.ndim != 4 or kernel.ndim != 4:
        raise ModelError(f"a convolution takes an image (b, h, w, c) and a kernel (kh, kw, c / groups, d), not shapes {x.shape} and {kernel.shape}")
    channels, features = x.shape[-1], kernel.shape[-1]
    if channels != kernel.shape[2] * groups or features % groups:
        raise ModelError(
            f"a kernel {tuple(kernel.shape)} in {groups} groups reads {kernel.shape[2] * groups} channels and wants features divisible by {groups}, "
            f"but the image has {channels} channels"
        )
    size, taps, strides, dilation = tuple(x.shape[1:3]), tuple(kernel.shape[:2]), pair(strides), pair(dilation)
    if isinstance(padding, str):
        reach = tuple((k - 1) * d + 1 for k, d in zip(taps, dilation))
        padding = jax.lax.padtype_to_pads(size, reach, strides, padding)
    else:
        padding = (pair(p) for p in pair(padding))
    return Geometry(size, taps, strides, dilation, tuple(tuple(p) for p in padding), groups)
