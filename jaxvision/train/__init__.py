"""Training: the loop, its meshes, checkpoints, writers. `fit(config, workdir)` is the whole of it from a notebook, `load_run(workdir)` brings
back what was learned."""

import importlib

_HOMES = {"fit": "jaxvision.train.stages", "load_run": "jaxvision.train.loading"}
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
