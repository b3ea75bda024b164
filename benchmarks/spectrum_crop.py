"""EfficientTrain's low-frequency crop as two matrix products (jaxvision/augment/spectrum.py) and by Fourier transforms, predicted for a TPU.

    python benchmarks/spectrum_crop.py --topology=v5e:1x1 --batch=256 --sizes 96 160 192

Prints, for images of 224x224, the compiler's estimate of each form's time on one chip. The transforms take minutes to compile.
"""

import argparse

import jax
import jax.numpy as jnp

from jaxvision.augment.spectrum import low_frequency_crop
from jaxvision.train.bench import predict
from jaxvision.train.preflight.topology import open_topology

FULL = 224


def by_transforms(x, size: int):
    """Forward transform, crop, inverse transform."""
    start = FULL // 2 - size // 2
    spectrum = jnp.fft.fftshift(jnp.fft.fft2(x, axes=(1, 2)), axes=(1, 2))[:, start : start + size, start : start + size]
    return jnp.fft.ifft2(jnp.fft.ifftshift(spectrum, axes=(1, 2)), axes=(1, 2)).real * (size / FULL) ** 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topology", default="v5e:1x1")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--sizes", type=int, nargs="+", default=[96, 160, 192])
    args = parser.parse_args()
    target = open_topology(args.topology)
    images = (jax.ShapeDtypeStruct((args.batch, FULL, FULL, 3), jnp.float32),)
    for size in args.sizes:
        transforms, products, _, remark = predict(
            lambda x, size=size: by_transforms(x, size), lambda x, size=size: low_frequency_crop(x, size), images, target, None
        )
        milliseconds = [f"{1000 * cycles / target.chip.clock:.2f} ms" if cycles else "does not fit" for cycles in (products, transforms)]
        print(f"{FULL} to {size}, {args.batch} images: matrix products {milliseconds[0]}, transforms {milliseconds[1]} {remark}".rstrip(), flush=True)


if __name__ == "__main__":
    main()
