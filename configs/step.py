"""Plain training steps, for preflight and profiles: the network, its loss and AdamW; of the augmentation only the flip.

    python -m jaxvision.main --mode=preflight --topology=v5e:2x2 --config=configs/step.py:vit_s16 "--config.preflight.programs=('train',)"
        predicts the step of ViT-S/16 at 128 images a chip in bfloat16; vit_b16 (64 a chip), convnext_t and swin_t (128) likewise
    JAXVISION_KERNELS=reference python -m jaxvision.main …
        the same step without a kernel of this library's, as the compiler would write it all

The names are the networks', the batch is that of four chips; --config.batch_size sets another. No recipe: nothing here is to be trained to its end.
"""

from ml_collections import ConfigDict

from jaxvision.errors import ConfigError, nearest

CHIPS = 4
# variant -> (model, images a chip)
STEPS = {
    "vit_s16": ("vit_small_patch16_224", 128),
    "vit_b16": ("vit_base_patch16_224", 64),
    "convnext_t": ("convnext_tiny", 128),
    "swin_t": ("swin_tiny_patch4_window7_224", 128),
    "resnet50": ("resnet50", 128),
}


def get_config(variant: str = "vit_s16") -> ConfigDict:
    if variant not in STEPS:
        raise ConfigError(f"configs/step.py has no variant {variant!r}; {nearest(variant, STEPS)}")
    model, batch = STEPS[variant]
    return ConfigDict(
        {
            "steps": 1000,
            "batch_size": CHIPS * batch,
            "image_size": (224, 224),
            "model": {"name": model, "dtype": "bfloat16"},
            "data": {"source": "tfds", "name": "imagenet2012", "test": "validation", "crop": "random_resized"},
            "augment": {"flip": True},
            "optim": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.1, "schedule": "cosine", "warmup": 100, "clip": 1.0},
        }
    )
