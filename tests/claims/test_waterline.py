"""Paper 25: operations do not order blocks by their latency, the waterline does, once each kind of layer has a rate that was measured.

The layers are the compiler's own for CPUs, whose depthwise and grouped convolutions run at a tenth and less of the rate of its matrix products, so
that blocks of about as many operations differ several times in time: rank correlations of 0.93 and, by operations alone, 0.44. (With this library's
convolutions, which run at rates that are not far apart, operations alone order blocks about as well: 0.91 and 0.95, the waterline's 0.88 and 0.93.)
"""

import time

import jax
import jax.numpy as jnp
import pytest
from scipy.stats import spearmanr

from jaxvision.kernels.dense import dense
from jaxvision.kernels.depthwise_conv import depthwise_conv
from jaxvision.kernels.grouped_conv import grouped_conv
from jaxvision.train.preflight.chips import Chip
from jaxvision.train.waterline import Block

BATCH = 4
# Side and channels of the maps.
SHAPES = ((28, 64), (56, 32), (56, 64), (28, 128), (14, 128), (14, 256))
# kind -> side of the kernel, input channels of an output. The kinds do unlike numbers of operations at unlike rates.
KINDS = {"convfirst": (3, 8), "mbconv": (3, 1), "convnext": (7, 1)}


def convolution(x, kernel):
    groups = x.shape[-1] // kernel.shape[2]
    if kernel.shape[2] == 1:
        return depthwise_conv(x, kernel, implementation="reference")
    return grouped_conv(x, kernel, groups, implementation="reference")


def pointwise(x, kernel):
    return dense(x, kernel, implementation="reference")


def layers_of(block: Block):
    """(function, its arrays) of each layer, and of the block as one program; activations and norms left out."""
    spatial = block.inner if block.kind == "mbconv" else block.channels
    draw = lambda number, *shape: jax.random.normal(jax.random.key(number), shape) / shape[-1]
    map_of = lambda channels: draw(0, BATCH, block.height, block.width, channels)
    kernel = draw(1, block.kernel, block.kernel, block.group_width, spatial)
    expand, project = draw(2, block.channels, block.inner), draw(3, block.inner, block.channels)
    layers = {
        "conv": (convolution, map_of(spatial), kernel),
        "expand": (pointwise, map_of(block.channels), expand),
        "project": (pointwise, map_of(block.inner), project),
    }

    def whole(x, kernel, expand, project):
        if block.kind == "mbconv":
            return x + pointwise(convolution(pointwise(x, expand), kernel), project)
        return x + pointwise(pointwise(convolution(x, kernel), expand), project)

    return layers, (whole, map_of(block.channels), kernel, expand, project)


def shortest(function, *arrays) -> float:
    compiled = jax.jit(function).lower(*arrays).compile()
    spent = []
    for _ in range(4):
        began = time.perf_counter()
        jax.block_until_ready(compiled(*arrays))
        spent.append(time.perf_counter() - began)
    return min(spent)


@pytest.mark.claim
@pytest.mark.timeout(300)
def test_the_waterline_orders_blocks_by_latency_and_operations_do_not():
    blocks = [Block(kind, side, side, channels, 4, *KINDS[kind]) for kind in KINDS for side, channels in SHAPES]
    # A rate for each kind of layer, from one block in the middle; from the others nothing but sizes.
    rates = {}
    kind_of = lambda bar, block: (block.kernel, block.group_width) if bar.name == "conv" else bar.name
    for block in blocks:
        if (block.height, block.channels) == SHAPES[0]:
            layers, _ = layers_of(block)
            for bar in block.layers(BATCH, item=4):
                rates.setdefault(kind_of(bar, block), bar.flops / shortest(*layers[bar.name]))
    copied = jnp.zeros(2**24)
    bandwidth = 8 * copied.size / shortest(lambda x: x + 1, copied)
    chip = lambda rate: Chip("cpu", "cpu", rate, bandwidth, 0.0, 1.0, 0.0)

    def predicted(block: Block) -> float:
        return sum(bar.least_seconds(chip(rates[kind_of(bar, block)])) for bar in block.layers(BATCH, item=4))

    measured = [shortest(*layers_of(block)[1]) for block in blocks]
    predictors = {"waterline": predicted, "operations": lambda block: block.fused(BATCH).flops}
    figures = {name: spearmanr([of(block) for block in blocks], measured).statistic for name, of in predictors.items()}
    print(figures, [(block.kind, block.height, round(1e3 * predicted(block), 2), round(1e3 * seen, 2)) for block, seen in zip(blocks, measured)])
    assert figures["waterline"] > 0.8
    assert figures["waterline"] > figures["operations"] + 0.1
