"""What a pixel shuffle means: a transposition between two reshapes."""

from jaxtyping import Array, Num


def forward(x: Num[Array, "b h w d"], scale: int, axes: str) -> Num[Array, "b p q c"]:
    size = {"c": x.shape[-1] // scale**2, "i": scale, "j": scale}
    b, h, w, _ = x.shape
    cut = x.reshape(b, h, w, *(size[axis] for axis in axes))
    i, j, c = (3 + axes.index(axis) for axis in "ijc")
    return cut.transpose(0, 1, i, 2, j, c).reshape(b, h * scale, w * scale, size["c"])
