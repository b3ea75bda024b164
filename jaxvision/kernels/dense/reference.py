"""What a dense layer means: contractions over the last axis, and over all others for the gradient of the kernel."""

from jax import lax

from jaxvision.kernels.bilinear import Maps


def forward(x, w, geometry):
    del geometry
    return lax.dot_general(x, w, (((x.ndim - 1,), (0,)), ((), ())))


def input_grad(dy, w, geometry):
    del geometry
    return lax.dot_general(dy, w, (((dy.ndim - 1,), (1,)), ((), ())))


def weight_grad(x, dy, geometry):
    del geometry
    lead = tuple(range(x.ndim - 1))
    return lax.dot_general(x, dy, ((lead, lead), ((), ())))


REFERENCE = Maps(forward, input_grad, weight_grad)
