"""Operations that run by different code on different hardware. One folder an op; what the folder's `__init__` defines is what callers see.

An op's folder holds `reference.py` (its meaning), `tpu.py`, `gpu.py`, `cpu.py` where each earns its place, and `bench.py`: a module-level table
`BENCH: tuple[Case, ...]` (`kernels/cases.py`) of calls that models really make. `--mode=bench` finds every folder that has one, and compares
`implementation="reference"` with `implementation=None`, forward and with gradients:

    # kernels/<op>/bench.py
    from jaxvision.kernels.cases import Case, spec
    from jaxvision.kernels.<op> import <op>

    def call(x, w, *, implementation):                       # takes the arrays of `arguments`, in order
        return <op>(x, w, implementation=implementation)

    BENCH = (
        Case("ConvNeXt-T, stage 1", call, lambda batch, dtype: (spec(batch, 56, 56, 96, dtype=dtype), spec(7, 7, 1, 96, dtype=dtype))),
    )
"""
