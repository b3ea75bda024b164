"""MAXIM (Tu et al. 2022, arXiv 2201.02973): denoising, deblurring, deraining, dehazing and enhancement by gated MLPs over blocks and grids.

    python -m jaxvision.main --config=configs/maxim.py:demo --workdir=runs/maxim
        noise of 25/255 taken off photographs that come with scikit-image and scikit-learn, by a network of 8 features; measured on windows of three
        that are held out: seen, 27.88 dB where the noisy windows have 20.81 (SSIM 0.66 and 0.26); some two minutes on two CPU cores
    python -m jaxvision.main --mode=predict --workdir=runs/maxim --input=photo.jpg
    … configs/maxim.py:demo,plain        without gated MLPs and gating, for comparison

    python -m jaxvision.main --config=configs/maxim.py:sidd --config.data.path=SIDD --workdir=runs/maxim_sidd
        a folder of pairs, train/input, train/target, test/input, test/target; published for the test pictures, PSNR in dB / SSIM:
        three U-Nets: sidd (noise) 39.96 / 0.960; gopro, reds, realblur_r, realblur_j (blur) 32.86 / 0.961, 28.93 / 0.865, 39.45 / 0.962,
        32.84 / 0.935;
        two: rain13k (mean of five sets), raindrop 33.24 / 0.933, 31.87 / 0.935; reside_indoor, reside_outdoor (haze) 38.11 / 0.991, 34.19 / 0.985;
        lol, fivek (enhancement) 23.43 / 0.863, 26.15 / 0.945
    python -m jaxvision.main --mode=eval --workdir=runs/maxim_sidd --input=SIDD/test
        whole pictures of any size, each
    … configs/maxim.py:gopro --config.init_from=checkpoint.npz
        goes on from the released weights

The paper's losses, rate and augmentation. Its training code is not public: the number of steps and the batch are ours.
"""

from ml_collections import ConfigDict

from jaxvision.errors import ConfigError, nearest

# Network, pairs to train and to test with.
RUNS = {
    "sidd": ("maxim_s3", 30_608, 1_280),
    "gopro": ("maxim_s3", 2_103, 1_111),
    "reds": ("maxim_s3", 24_000, 300),
    "realblur_r": ("maxim_s3", 3_758, 980),
    "realblur_j": ("maxim_s3", 3_758, 980),
    "rain13k": ("maxim_s2", 13_712, 4_298),
    "raindrop": ("maxim_s2", 861, 58),
    "reside_indoor": ("maxim_s2", 13_990, 500),
    "reside_outdoor": ("maxim_s2", 313_950, 500),
    "lol": ("maxim_s2", 485, 15),
    "fivek": ("maxim_s2", 4_500, 500),
}


def published(name: str) -> ConfigDict:
    model, train, test = RUNS[name]
    task = {"name": "restore/supervised", "loss": "charbonnier", "frequency": 0.1, "supervise": "outputs"}
    data = {"source": "paired", "crop": "window", "corrupt": "skip", "classes": 0, "columns": ("target",), "train_size": train, "test_size": test}
    return ConfigDict(
        {
            "steps": 600_000,
            "batch_size": 64,
            "image_size": (256, 256),
            "eval_every": 20_000,
            "model": {"name": model, "dtype": "bfloat16", "remat": True},
            "data": data,
            "task": {**task, "mixup": 1.2, "mix_prob": 0.5, "metrics": ("psnr", "ssim"), "whole": True},
            "optim": {"name": "adam", "lr": 2e-4, "lr_end": 1e-7, "schedule": "cosine"},
            "checkpoint": {"metric": "test/psnr", "every": 2000},
        }
    )


# One level, so that it compiles in seconds.
SMALL = {"dim": 8, "depth": 1, "num_scales": 1, "num_groups": 1, "num_bottlenecks": 1, "window": (8, 8), "low_window": (8, 8)}


def demo(kind: str = "") -> ConfigDict:
    model = {"name": "maxim_s1_single", **SMALL}
    if kind:
        model |= {"multi_axis": False, "cross_gating": False}
    return ConfigDict(
        {
            "steps": 1200,
            "batch_size": 8,
            "image_size": (64, 64),
            "eval_every": 600,
            "eval_batch_size": 8,
            "log_every": 100,
            "model": model,
            "data": {"source": "photos", "size": (64, 64)},
            "task": {
                "name": "restore/supervised",
                "degrade": (("noise", 25 / 255),),
                "loss": "charbonnier",
                "frequency": 0.1,
                "supervise": "outputs",
                "patch": 32,
                "metrics": ("psnr", "ssim"),
                "tile": 64,
                "overlap": 16,
            },
            "optim": {
                "name": "adam",
                "lr": 2e-3,
                "lr_end": 1e-5,
                "schedule": "cosine",
                "warmup": 0.05,
                "clip": 1.0,
                "ema": 0.99,
                "ema_warmup": "tf",
            },
            "checkpoint": {"metric": "test/psnr"},
        }
    )


def get_config(variant: str = "demo") -> ConfigDict:
    name, *rest = variant.split(",")
    if name != "demo" and name not in RUNS:
        raise ConfigError(f"configs/maxim.py has no variant {name!r}; {nearest(name, ('demo', *RUNS))}")
    if rest and (name != "demo" or rest != ["plain"]):
        raise ConfigError(f"configs/maxim.py: {name!r} takes {'plain or nothing' if name == 'demo' else 'nothing'}; got {','.join(rest)!r}")
    return demo(*rest) if name == "demo" else published(name)
