"""ESPCN (Shi et al. 2016, arXiv 1609.05158): super-resolution whose convolutions all work on the small picture.

    python -m jaxvision.main --config=configs/espcn.py:demo --workdir=runs/espcn
        x3 on photographs that come with scikit-image and scikit-learn, measured on three that are held out, beside bicubic interpolation; seen,
        31.29 dB on luma as the mean over the three, bicubic 30.70 (over their 60 windows 36.03 and 35.70; SSIM 0.8827 and 0.8671)
    … configs/espcn.py:demo,2  and  demo,4              the other scales; seen, 34.14 dB beside 33.12, and 29.84 beside 29.36
    python -m jaxvision.main --mode=predict --workdir=runs/espcn --input=photo.jpg
        writes the photograph at three times its size; of a video (pip install 'jaxvision[video]') every frame
    python -m jaxvision.main --mode=eval --workdir=runs/espcn --input=Set5
        measures whole pictures of any sizes, each beside bicubic interpolation (pictures.csv)

    python -m jaxvision.main --config=configs/espcn.py:folder,3 --config.data.path=pictures --workdir=runs/espcn_x3
        any folder of pictures (train/ and test/, or split by seed); 91 pictures or 50,000 of ImageNet were the paper's, with Set5 and Set14 to test:
        33.13 and 29.49 dB on luma at x3
    … configs/espcn.py:div2k,3                          tfds's DIV2K
    … configs/espcn.py:examples,3 …                     PyTorch's four-layer example of the same name

The paper trains on patches of 17r x 17r pixels with a rate that falls from 0.01 to 0.0001 whenever the cost stalls; Adam and a cosine are ours, and
the small picture is MATLAB's bicubic one, which later work compares by, in place of a Gaussian blur and subsampling (task.degrade=(("blur", 1.0),
"subsample")).
"""

from ml_collections import ConfigDict

from jaxvision.errors import ConfigError, nearest

SCALES = ("2", "3", "4")


def _config(model: str, scale: int, data: dict, **keys) -> ConfigDict:
    return ConfigDict(
        {
            "model": {"name": f"{model}_x{scale}"},
            "data": {"channels": 3, **data},
            "task": {"name": "restore/supervised", "color": "y", "loss": "l2", "patch": 17 * scale},
            "optim": {"name": "adam", "lr": 2e-3, "lr_end": 1e-5, "schedule": "cosine", "ema": 0.999, "ema_warmup": "tf"},
            "checkpoint": {"metric": "test/psnr_y"},
            **keys,
        }
    )


def demo(scale: int) -> ConfigDict:
    size = (96, 96)
    data = {"source": "photos", "size": size}
    return _config("espcn_y", scale, data, steps=3000, batch_size=16, image_size=size, eval_every=1500, eval_batch_size=16, log_every=100)


def folder(scale: int) -> ConfigDict:
    data = {"source": "folder", "crop": "window", "corrupt": "skip"}
    return _config("espcn_y", scale, data, epochs=2000, batch_size=64, image_size=(192, 192), eval_every=5000)


def div2k(scale: int) -> ConfigDict:
    data = {"source": "tfds", "name": "div2k/bicubic_x2", "train": "train", "test": "validation", "crop": "window"}
    return _config("espcn_y", scale, data, epochs=2000, batch_size=64, image_size=(192, 192), eval_every=5000)


def examples(scale: int) -> ConfigDict:
    config = folder(scale)
    config.model.name = f"espcn_examples_x{scale}"
    return config


VARIANTS = {"demo": demo, "folder": folder, "div2k": div2k, "examples": examples}


def get_config(variant: str = "demo") -> ConfigDict:
    name, *rest = variant.split(",")
    if name not in VARIANTS:
        raise ConfigError(f"configs/espcn.py has no variant {name!r}; {nearest(name, VARIANTS)}")
    if len(rest) > 1 or any(word not in SCALES for word in rest):
        raise ConfigError(f"configs/espcn.py: {name!r} takes a scale, {', '.join(SCALES)}; got {','.join(rest)!r}")
    return VARIANTS[name](int(rest[0]) if rest else 3)
