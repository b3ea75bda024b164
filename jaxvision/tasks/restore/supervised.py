"""Restoration learned from pairs, given or made on the fly: super-resolution, denoising, deblurring, with any image-to-image network.

The network takes (B, H, W, C) and returns (B, scale H, scale W, C); `scale` is a field of its module, 1 when it has none. Source pictures are the
clean ones; a random window, one of the eight symmetries, and the recipe `task.degrade` make a pair of each. Sources of pairs (data.source "paired")
give the damaged picture as `image` and the clean one as `target`, of one size: window and symmetry are those of both.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxvision.augment.degrade import make_degrade
from jaxvision.augment.geometry import dihedral, random_window
from jaxvision.augment.mix import mix_examples
from jaxvision.augment.rows import row_keys
from jaxvision.augment.ycbcr import luma, rgb_to_ycbcr, ycbcr_to_rgb
from jaxvision.errors import ConfigError, nearest
from jaxvision.models.registry import create_model, variant_of
from jaxvision.nn.resize import bicubic, resize
from jaxvision.tasks.base import Task, total, weighted_mean
from jaxvision.tasks.restore import quality


def charbonnier(difference: Array) -> Array:
    """sqrt(d^2 + 1e-6): an L1 that is smooth within a thousandth of the pixel range."""
    return jnp.sqrt(jnp.square(difference) + 1e-6)


def spectral_distance(made: Float[Array, "b h w c"], clean: Float[Array, "b h w c"]) -> Float[Array, "b"]:
    """Mean of |real| and |imaginary| part of the difference's Fourier transform, which is not divided by the number of pixels (Cho et al. 2021,
    MIMO-UNet, arXiv 2108.05054)."""
    spectrum = jnp.fft.fft2(made - clean, axes=(1, 2))
    return 0.5 * (jnp.abs(spectrum.real) + jnp.abs(spectrum.imag)).mean((1, 2, 3))


# A loss a pixel of (restored, clean), pixels in 0..1. "clipped" as MIRNet's code has it: what leaves the range has no gradient back into it.
LOSSES = {
    "l1": lambda made, clean: jnp.abs(made - clean),
    "l2": lambda made, clean: jnp.square(made - clean),
    "charbonnier": lambda made, clean: charbonnier(made - clean),
    "clipped_charbonnier": lambda made, clean: charbonnier(jnp.clip(made, 0, 1) - clean),
}
COLORS = ("rgb", "y")
# Which method of the network makes the pictures that are compared.
SUPERVISED = {"result": "__call__", "outputs": "outputs"}
# Of (restored, clean, border): pictures in 0..1.
METRICS = {
    "psnr": lambda a, b, border: quality.psnr(*(quality.comparable(x, border=border) for x in (a, b))),
    "psnr_y": lambda a, b, border: quality.psnr(*(quality.comparable(x, border=border, luma_only=True) for x in (a, b))),
    "ssim": lambda a, b, border: quality.ssim(*(quality.comparable(x, border=border) for x in (a, b))),
    "ssim_y": lambda a, b, border: quality.ssim(*(quality.comparable(x, border=border, luma_only=True) for x in (a, b))),
}
# What a frozen network measures, by the name under config.frozen.
PERCEPTUAL = {"lpips": "lpips", "fid": "features"}
SHOWN = 6


def pixels(image: Array) -> Float[Array, "b h w c"]:
    """In 0..1: integers divided by the largest of their type, floats as they are."""
    return image.astype(jnp.float32) / (jnp.iinfo(image.dtype).max if jnp.issubdtype(image.dtype, jnp.integer) else 1)


def enlarged(image: Float[Array, "b h w c"], scale: int) -> Float[Array, "b p q c"]:
    """By bicubic interpolation; the same image at scale 1."""
    return image if scale == 1 else bicubic(image, (image.shape[1] * scale, image.shape[2] * scale))


class Restore(Task):
    """Keys of config.task:

    degrade: the recipe, see augment/degrade.py; rounded: whether damaged pictures are rounded to 8 bits (default True).
    color: "rgb", or "y": the network sees luma alone, chroma is enlarged by bicubic interpolation.
    patch: side of the clean window to train with, drawn from the image of `image_size`; None: all of it. dihedral: the eight symmetries (True).
    loss: a key of LOSSES, of pixels in 0..1. frequency: weight of the distance of spectra beside it, 0 for none.
    supervise: "result", or "outputs": every picture that the network's method `outputs` makes, of whatever size, is compared with the clean one at
    that size, and the losses are added.
    mixup: alpha; each pair is mixed with a random other one, by a share from Beta(alpha, alpha); 0 for none. mixup_from: the first epoch that mixes.
    mix_prob: of an example to be mixed (1).
    metrics: of "psnr", "psnr_y", "ssim", "ssim_y", "lpips" (needs frozen.lpips), "fid" (needs frozen.features).
    border: pixels left out on each side when measuring; None: as many as the scale, none at scale 1.
    tile, overlap: side of the pieces, in input pixels, in which prediction works through a picture of any size, and by how much neighbours overlap.
    whole: give prediction a picture as a whole instead; one program is compiled a size.
    """

    KEYS = ("name", "degrade", "rounded", "color", "patch", "dihedral", "loss", "frequency", "supervise", "mixup", "mixup_from", "mix_prob")
    KEYS = (*KEYS, "metrics", "border", "tile", "overlap", "whole")

    def __init__(self, config, problem):
        for key in config.task:
            if key not in self.KEYS:
                raise ConfigError(f"task.{key} is not a key of the task {config.task.name!r}; {nearest(key, self.KEYS)}")
        if any(config.augment.values()) or problem.crop:
            raise ConfigError("restoration makes its pairs itself: leave config.augment and phases of other sizes out; see task.degrade and dihedral")
        get = config.task.get
        for key, value, known in (
            ("color", get("color", "rgb"), COLORS),
            ("loss", get("loss", "l1"), LOSSES),
            ("supervise", get("supervise", "result"), SUPERVISED),
        ):
            if value not in known:
                raise ConfigError(f"task.{key} {value!r} is unknown; {nearest(value, known)}")
        self.color, self.pixel_loss = get("color", "rgb"), LOSSES[get("loss", "l1")]
        self.metrics = tuple(get("metrics", ("psnr_y", "ssim_y", "psnr")))
        for name in self.metrics:
            if name not in METRICS and name not in PERCEPTUAL:
                raise ConfigError(f"task.metrics {name!r} is unknown; {nearest(name, (*METRICS, *PERCEPTUAL))}")
            if name in PERCEPTUAL and PERCEPTUAL[name] not in config.frozen:
                needed = PERCEPTUAL[name]
                raise ConfigError(f"task.metrics has {name!r}, whose weights are yours to give: set frozen.{needed}.model and frozen.{needed}.source")
        if self.color == "y" and problem.channels != 3:
            raise ConfigError(f"task.color='y' takes luma from three channels, the images have {problem.channels}; set data.channels=3")
        super().__init__(config, problem)
        self.scale = get("scale", None) or getattr(self.model, "scale", 1)
        self.degrade = make_degrade(get("degrade", ("bicubic",) if self.scale > 1 else ()), self.scale, get("rounded", True))
        self.patch, self.turn, self.mixup = get("patch", None), get("dihedral", True), get("mixup", 0.0)
        self.mixup_from = round(get("mixup_from", 0) * problem.steps_per_epoch)
        self.border = self.scale if get("border", None) is None and self.scale > 1 else get("border", None) or 0
        self.tile, self.overlap, self.whole = get("tile", 128), get("overlap", 16), get("whole", False)
        self.method, self.frequency, self.mix_prob = SUPERVISED[get("supervise", "result")], get("frequency", 0.0), get("mix_prob", 1.0)
        if not hasattr(self.model, self.method):
            raise ConfigError(f"task.supervise='outputs' needs a network that restores several pictures at once, {config.model.name} restores one")
        if not 0 <= 2 * self.overlap < self.tile:
            raise ConfigError(f"task.tile={self.tile} must be more than twice task.overlap={self.overlap}")
        if self.patch is not None and (self.patch % self.scale or self.patch > min(config.image_size)):
            size = tuple(config.image_size)
            raise ConfigError(f"task.patch={self.patch} must be a multiple of the scale {self.scale} and at most image_size {size}")
        channels = 1 if self.color == "y" else problem.channels
        self.mean, self.std = (np.asarray(self.constants[key][:channels], np.float32) for key in ("mean", "std"))
        self.judges = {name: create_model(config.frozen[name].model, num_classes=0) for name in set(PERCEPTUAL.values()) & set(config.frozen)}

    @property
    def evaluate_frozen(self) -> tuple[str, ...]:
        return tuple(PERCEPTUAL[name] for name in self.metrics if name in PERCEPTUAL)

    # --- what a network with other inputs overrides ---

    def init_variables(self, key, shapes):
        side = (self.patch,) * 2 if self.patch else shapes["image"].shape[1:3]
        low = jnp.zeros((1, *(length // self.scale for length in side), len(self.mean)), jnp.float32)
        return self.model.init(key, low, train=False)

    def restore(self, variables: Mapping[str, Any], low: Float[Array, "b h w c"]) -> Float[Array, "b p q c"]:
        """The restored picture of a damaged one, both in 0..1 with all their colours."""
        if self.color == "rgb":
            return self._network(variables, low)
        planes = rgb_to_ycbcr(low)
        whole = jnp.concatenate([self._network(variables, planes[..., :1]), enlarged(planes[..., 1:], self.scale)], -1)
        return ycbcr_to_rgb(whole)

    def _network(self, variables, low):
        return self.model.apply(variables, (low - self.mean) / self.std, train=False) * self.std + self.mean

    def _check_pairs(self):
        if self.scale > 1:
            raise ConfigError(f"a source of pairs has both pictures in one size, and the network of scale {self.scale} wants clean ones alone")
        if self.degrade.steps:
            raise ConfigError("task.degrade damages clean pictures, and the source has damaged ones already; leave it out")

    # --- the task ---

    def train_step(self, state, batch, *, static=None):
        if self.mixup:
            batch = {**batch, "mixes": jnp.broadcast_to(state.step >= self.mixup_from, batch["valid"].shape)}
        return super().train_step(state, batch, static=static)

    def prepare(self, batch, key, *, train):
        batch, valid = dict(batch), batch["valid"].astype(jnp.float32)
        image, channels = pixels(batch["image"]), batch["image"].shape[-1]
        window_key, turn_key, degrade_key = jax.random.split(key, 3)
        paired = "target" in batch
        if paired:
            self._check_pairs()
            image = jnp.concatenate([image, pixels(batch.pop("target"))], -1)
        # In evaluation the draws belong to the example, so that every batch size gives the same pairs.
        row = jnp.arange(len(image)) if train else batch["index"]
        if train and self.patch:
            image = random_window(window_key, image, row, (self.patch, self.patch))
        if train and self.turn:
            image = dihedral(turn_key, image, row)
        height, width = (side // self.scale * self.scale for side in image.shape[1:3])
        batch["clean"] = image[:, :height, :width, -channels:]
        batch["image"] = image[..., :channels] if paired else self.degrade(degrade_key, batch["clean"], row)
        if "mixes" in batch:
            mixed = mix_examples(jax.random.fold_in(key, 3), (batch["image"], batch["clean"]), row, self.mixup)
            chosen = jax.vmap(lambda k: jax.random.bernoulli(k, self.mix_prob))(row_keys(jax.random.fold_in(key, 4), row))
            where = (batch.pop("mixes") & chosen)[:, None, None, None]
            batch["image"], batch["clean"] = (jnp.where(where, new, batch[name]) for name, new in zip(("image", "clean"), mixed))
        batch["weight"] = valid / jnp.maximum(valid.mean(), 1e-9) if train else valid
        return batch

    def loss(self, params, extra, frozen, batch, key, *, static, train):
        low, clean = (luma(batch[name]) if self.color == "y" else batch[name] for name in ("image", "clean"))
        variables = {"params": params, **{name: extra[name] for name in ("batch_stats",) if name in extra}}
        options = {"train": True, "rngs": {"dropout": key}, "mutable": ["batch_stats"], "method": self.method}
        outputs, new = self.model.apply(variables, (low - self.mean) / self.std, **options)
        pictures = [made * self.std + self.mean for made in (outputs if isinstance(outputs, tuple) else (outputs,))]
        value = weighted_mean(sum(self.distance(made, clean) for made in pictures), batch["weight"])
        psnr = -10 * jnp.log10(jnp.maximum(jnp.square(pictures[-1] - clean).mean((1, 2, 3)), 1e-10))
        return value, {"metrics": {"psnr": weighted_mean(psnr, batch["weight"])}, "extra": dict(new)}

    def distance(self, made: Float[Array, "b p q c"], clean: Float[Array, "b h w c"]) -> Float[Array, "b"]:
        """The loss of a restored picture an example; the clean one is brought to its size."""
        clean = clean if made.shape == clean.shape else resize(clean, made.shape[1:3], kernel="bilinear", border="cut")
        value = self.pixel_loss(made, clean).mean((1, 2, 3))
        return value + self.frequency * spectral_distance(made, clean) if self.frequency else value

    def evaluate(self, variables, state, batch):
        made = self.restore(variables, batch["image"])
        return self.judge(made, state, batch)

    def judge(self, made: Float[Array, "b p q c"], state: Any, batch: Mapping[str, Any]) -> tuple[dict, dict]:
        """(sums, rows) of restored pictures beside the clean ones, and of the damaged ones enlarged, as "input_<metric>"."""
        clean, plain = batch["clean"], enlarged(batch["image"], self.scale) if batch["image"].shape != batch["clean"].shape else batch["image"]
        sums, rows = {}, {}
        if "picture" in batch:
            ours, before, truth = (quality.comparable(image, border=self.border, luma_only=True) for image in (made, plain, clean))
            rows |= {"picture": batch["picture"], "error": jnp.square(ours - truth).mean((1, 2, 3))}
            rows["input_error"] = jnp.square(before - truth).mean((1, 2, 3))
        for name in self.metrics:
            if name in METRICS:
                sums[name] = total(METRICS[name](made, clean, self.border), batch["weight"])
                sums[f"input_{name}"] = total(METRICS[name](plain, clean, self.border), batch["weight"])
            elif name == "lpips":
                distance = self.judges["lpips"].apply(state.frozen["lpips"], 2 * jnp.clip(made, 0, 1) - 1, 2 * clean - 1)
                sums[name] = total(distance, batch["weight"])
            else:
                features = lambda image: self.judges["features"].apply(state.frozen["features"], self._normalized(image), train=False)
                rows["features"], rows["clean_features"] = features(jnp.clip(made, 0, 1)), features(clean)
        return sums, rows

    def _normalized(self, image):
        variant = variant_of(self.config.frozen["features"].model)
        image = jnp.broadcast_to(image, (*image.shape[:-1], 3))
        return (image - np.asarray(variant.mean, np.float32)) / np.asarray(variant.std, np.float32)

    def summarize(self, rows, names):
        """"fid"; and, where the data say which windows are one picture's, "picture_psnr_y": PSNR of whole pictures, mean over pictures."""
        test, figures = rows["test"], {}
        if "fid" in self.metrics:
            figures["fid"] = quality.frechet_distance(test["features"], test["clean_features"])
        if "picture" in test:
            for name, error in (("picture_psnr_y", "error"), ("input_picture_psnr_y", "input_error")):
                errors = [test[error][test["picture"] == number].mean() for number in np.unique(test["picture"])]
                figures[name] = float(np.mean(-10 * np.log10(np.maximum(errors, 1e-10))))
        return figures

    def figures(self, state, batch) -> dict[str, Float[Array, "n p q c"]]:
        """Columns of a sheet for people, a row an example: damaged, restored, clean."""
        batch = self.prepare(jax.tree.map(lambda leaf: leaf[:SHOWN], dict(batch)), state.key, train=False)
        plain = enlarged(batch["image"], self.scale)
        return {"input": plain, "restored": self.restore(self.variables(state), batch["image"]), "truth": batch["clean"]}

    def predict(self, state, batch):
        return {"image": self.restore(self.variables(state), pixels(batch["image"]))}


TASK = Restore
