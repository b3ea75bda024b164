"""Which of the two kernels for TPUs computes a branch: the one with examples in the lanes, or the one with channels there."""

from jaxvision.kernels.mlp import channels, examples


def _kernel(x, w1, *rest, epsilon=None):
    return next((kernel for kernel in (examples, channels) if kernel.covers(x, w1, *rest, epsilon=epsilon)), None)


def covers(*arrays, epsilon=None) -> bool:
    return _kernel(*arrays, epsilon=epsilon) is not None


def forward(*arrays, epsilon: float | None = None, interpret: bool = False):
    return _kernel(*arrays, epsilon=epsilon).forward(*arrays, epsilon=epsilon, interpret=interpret)


def cotangents(dy, *arrays, epsilon: float | None = None, interpret: bool = False):
    return _kernel(*arrays, epsilon=epsilon).cotangents(dy, *arrays, epsilon=epsilon, interpret=interpret)
