"""jaxvision: computer-vision papers in one pure-functional JAX/Flax library.

    import jaxvision
    jaxvision.list_models("vit_small*")                # names, as timm's where timm has the model
    jaxvision.count_parameters("vit_small_patch16_224")
    model = jaxvision.create_model("vit_small_patch16_224", num_classes=10)
    variables = jaxvision.load_pretrained(model, "vit_small.safetensors")
    jaxvision.fit(config, workdir="runs/digits")       # what `python -m jaxvision.main` runs
    run = jaxvision.load_run("runs/digits")            # run.model.apply(run.variables, run.normalize(images))

The names below are imported at first use: `import jaxvision` itself loads neither jax nor flax and touches no device.
"""

import importlib

__version__ = "0.1.0"

_HOMES = {
    "create_model": "jaxvision.models",
    "list_models": "jaxvision.models",
    "count_parameters": "jaxvision.models",
    "load_pretrained": "jaxvision.interop",
    "save_pretrained": "jaxvision.interop",
    "fit": "jaxvision.train",
    "load_run": "jaxvision.train",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'jaxvision' has no attribute {name!r}; it offers {', '.join(__all__)}")


def __dir__():
    return [*globals(), *__all__]
