"""Reads compiled HLO text: which ops run, how often, what the compiler says they cost, their bytes and operations, and where they come from.

    module = parse(compiled.as_text())
    for op, times in executed(module):                  # loop bodies times their trips; inside of fusions not entered
        op.cycles, bytes_moved(module, op), flops(module, op), op.source, op.layer

XLA writes an estimate of cycles beside most ops that it compiles for a TPU. Calls of hand-written kernels, gathers, scatters, sorts and collectives
carry none (`op.cycles is None`): pricing them is `price.py`'s. For other platforms no op carries an estimate.
"""

from jaxvision.train.preflight.hlo.collectives import COLLECTIVES, Collective, collectives, collectives_of
from jaxvision.train.preflight.hlo.costs import FREE, bytes_moved, flops
from jaxvision.train.preflight.hlo.loops import cycles, executed, trips
from jaxvision.train.preflight.hlo.reading import BYTES, Module, Op, Shape, called, layer_of, parse, with_fused

__all__ = [
    "BYTES",
    "COLLECTIVES",
    "FREE",
    "Collective",
    "Module",
    "Op",
    "Shape",
    "bytes_moved",
    "called",
    "collectives",
    "collectives_of",
    "cycles",
    "executed",
    "flops",
    "layer_of",
    "parse",
    "trips",
    "with_fused",
]
