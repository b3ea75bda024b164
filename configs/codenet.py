"""CoDeNet (Huang et al. 2019, arXiv 2002.08357; Dong et al. 2021, 2006.08357): detection with deformable convolutions that an FPGA can hold.

    python -m jaxvision.main --config=configs/codenet.py:demo --workdir=runs/codenet
        a small network on procedural shapes of 18 to 38 pixels, float and then with 4-bit weights and 8-bit activations; pictures/ of each stage has
        true boxes, found ones and centres
    python -m jaxvision.main --mode=predict --workdir=runs/codenet --input=photo.jpg
        predictions/boxes.json as COCO has it, and predictions/boxes/photo.png

    python -m jaxvision.main --config=configs/codenet.py:voc,c --config.data.path=VOCdevkit --workdir=runs/codenet_c
        the detectors a to e of 2021 on VOC 07 + 12: 90 epochs, then 90 more quantized, at the rate that the first end with, as the public command
        goes on from its checkpoint. Published AP50 of the quantized ones: a 51.1, b 55.1, c 61.7, d 67.1, e 69.7
    … voc,c,float (the first stage alone), coco,c --config.data.path=coco (AP 22.2 float, 18.8 quantized; coco,d 26.1 and 21.0)
    … ablation,square_depthwise --config.data.path=VOCdevkit --config.init_from=ShuffleNetV2.1.0x.pth.tar
        the ablation of 2019, any of nn.deform.KINDS, from its authors' ImageNet weights. Published AP50: conv3x3 61.0, depthwise 60.8, deform 67.8,
        deform_bound 66.5, deform_square 64.9, deform_depthwise 66.5, square_depthwise 64.5
    … ablation_coco --config.data.path=coco (AP 21.6)

What differs from the public code: images are RGB with their own means (they are BGR with RGB's in the second repository); statistics of batch norms
are the running ones (the first takes 200 batches anew before each evaluation); test pictures of the ablation lie in a canvas of 512 x 512 pixels,
where larger ones are shrunk, instead of the next multiple of 32.
"""

from ml_collections import ConfigDict

from jaxvision.errors import ConfigError, nearest
from jaxvision.recipes import changed

DETECTORS = {"a": 256, "b": 256, "c": 512, "d": 512, "e": 512}
KINDS = ("conv3x3", "depthwise", "deform", "deform_bound", "deform_square", "deform_depthwise", "square_depthwise")
VOC = {
    "source": "voc",
    "train": "2007/trainval+2012/trainval",
    "test": "2007/test",
    "classes": 20,
    "train_size": 16_551,
    "test_size": 4_952,
    "max_boxes": 64,
}
COCO = {
    "source": "coco",
    "train": "train2017",
    "test": "val2017",
    "classes": 80,
    "train_size": 118_287,
    "test_size": 5_000,
    "max_boxes": 128,
}
# Of pictures with boxes, for preflight where they are not there.
PICTURES = {"interpolation": "bilinear", "columns": ("boxes", "box_label"), "corrupt": "error"}
COLOURS = {"flip": 0.5, "color_jitter": (0.4, 0.4, 0.4), "lighting": 0.1}
QUANTIZED = {"model.weight_bits": 4, "model.activation_bits": 8, "init_from": "stage:float"}


def _config(model: dict, data: dict, task: dict, **keys) -> ConfigDict:
    return ConfigDict({"model": model, "data": data, "task": {"name": "detect/centernet", **task}, "checkpoint": {"metric": "test/ap50"}, **keys})


def demo() -> ConfigDict:
    # Narrow where maps are fine, wide where a picture is two cells across: there is no way from fine maps to the decoder but through those.
    model = {"name": "codenet_a", "channels": (16, 48, 96, 192, 512), "depths": (1, 1, 1), "decoder": (128, 64, 32), "head": 32}
    data = {"source": "shapes", "size": (64, 64), "count": 2048, "max_boxes": 2, "crop": "letterbox", "interpolation": "bilinear"}
    config = _config(
        model,
        data,
        {"count": 20, "threshold": 0.2, "metrics": ("coco", "voc")},
        steps=900,
        batch_size=32,
        image_size=(64, 64),
        log_every=50,
        eval_every=900,
        eval_batch_size=64,
        augment={"flip": 0.5, "affine": (0.8, 1.25, 0.1)},
        optim={"name": "adam", "lr": 2e-3, "schedule": "cosine", "warmup": 0.05, "clip": 10.0},
    )
    quantized = {**QUANTIZED, "steps": 150, "eval_every": 150, "optim.lr": 2e-4, "optim.warmup": 0}
    config.stages = (("float", {}), ("quantized", quantized))
    return config


def released(data: dict, name: str, part: str) -> ConfigDict:
    """Zhen-Dong/CoDeNet's main.py and then quant_main.py."""
    side = DETECTORS[name]
    config = _config(
        {"name": f"codenet_{name}"},
        {**data, **PICTURES, "crop": "center_affine"},
        {"radius": "released", "flip_test": True, "metrics": ("coco", "voc")},
        epochs=90,
        batch_size=32,
        image_size=(side, side),
        augment=COLOURS,
        optim={"name": "adam", "lr": 1.25e-4, "schedule": "step", "milestones": ("50ep", "70ep")},
    )
    if part == "both":
        fine = {"optim.schedule": "constant", "optim.lr": 1.25e-6, "model.percentile": True, **QUANTIZED}
        config.stages = (("float", {}), ("quantized", fine))
    return config


def ablation(kind: str) -> ConfigDict:
    """DequanWang/CoDeNet's runs on VOC."""
    optim = {"name": "sgd", "momentum": 0.9, "lr": 0.01, "lr_start": 1e-5, "schedule": "step", "milestones": (12_000, 16_000), "warmup": 1000}
    return _config(
        {"name": f"codenet_{kind}"},
        {**VOC, **PICTURES, "crop": "center_canvas"},
        {"ignored": True, "count": 64, "metrics": ("voc", "coco")},
        steps=18_000,
        batch_size=128,
        image_size=(512, 512),
        augment=COLOURS,
        optim={**optim, "weight_decay": 1e-4, "decay": "l2", "decay_1d": True, "no_decay": (r".*/(scale)", r".*_\d+/bias")},
    )


def ablation_coco() -> ConfigDict:
    config = ablation("square_depthwise")
    changes = {"data": {**COCO, "crop": "center_canvas"}, "steps": 90_000, "batch_size": 260}
    config = changed(config, {**changes, "optim": {"lr": 0.06, "lr_start": 6e-5, "milestones": (60_000, 80_000)}})
    config.task.update({"ignored": False, "count": 128, "metrics": ("coco",)})
    return config


def get_config(variant: str = "demo") -> ConfigDict:
    name, *rest = variant.split(",")
    plain = {"demo": demo, "ablation_coco": ablation_coco}
    if name in plain and not rest:
        return plain[name]()
    if name == "ablation" and len(rest) == 1 and rest[0] in KINDS:
        return ablation(rest[0])
    if name in ("voc", "coco") and len(rest) in (1, 2) and rest[0] in DETECTORS and rest[1:] in ([], ["float"]):
        return released({"voc": VOC, "coco": COCO}[name], rest[0], "float" if rest[1:] else "both")
    choices = [*plain, *(f"ablation,{kind}" for kind in KINDS), *(f"{data},{letter}" for data in ("voc", "coco") for letter in DETECTORS)]
    raise ConfigError(f"configs/codenet.py has no variant {variant!r}; {nearest(variant, choices)}")
