"""Detection by centres (CenterNet: Zhou et al. 2019, arXiv 1904.07850): a heat map a class, a size and an offset at each centre, no suppression.

The network takes images and returns maps {"heat", "size", "offset"} of its `stride`, see models/codenet.py. The loss is that of the whole batch as
published: focal over its number of centres, L1 of sizes (weight 0.1) and of offsets over its number of coordinates. Boxes are padded to one number
(data.max_boxes), `box_valid` says which count; those of `box_ignore` (crowds, difficult ones) are not judged, nor learned unless the config says so.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvision.augment.boxes import make_box_augment
from jaxvision.errors import ConfigError, DataError, nearest
from jaxvision.kernels.block_resize import repeat_pixels
from jaxvision.nn.quantize import RANGES
from jaxvision.tasks.base import Task, weighted_mean
from jaxvision.tasks.detect.average_precision import METRICS, check_coco
from jaxvision.tasks.detect.centers import Found, Targets, center_distance, focal_loss, peaks, targets
from jaxvision.tasks.detect.pictures import draw

RADII = ("corrected", "released")
SHOWN, DRAWN = 4, 24  # examples of a sheet, boxes of an example


class CenterNet(Task):
    """Keys of config.task:

    size, offset: weights of the two distances (0.1, 1).
    radius: of the Gaussians, "corrected" or "released", see tasks/detect/centers.py.
    ignored: learn what is not judged too: crowds, difficult objects (False).
    count: boxes a picture that are given out (100).
    flip_test: average heat and sizes with those of the mirrored image (False).
    threshold: probability from which a box is drawn and predicted (0.3).
    metrics: of "coco" (needs pycocotools) and "voc".
    """

    KEYS = ("name", "size", "offset", "radius", "ignored", "count", "flip_test", "threshold", "metrics")
    fresh = RANGES  # of a quantized network that begins with a float one's weights

    def __init__(self, config, problem):
        for key in config.task:
            if key not in self.KEYS:
                raise ConfigError(f"task.{key} is not a key of the task {config.task.name!r}; {nearest(key, self.KEYS)}")
        if not problem.classes:
            raise DataError("detection learns from boxes with classes, and the data have no classes")
        if problem.crop:
            raise ConfigError("phases of other sizes do not move boxes; give detection one image_size")
        get = config.task.get
        self.weights = (float(get("size", 0.1)), float(get("offset", 1.0)))
        self.radius, self.ignored, self.count = get("radius", "corrected"), bool(get("ignored", False)), int(get("count", 100))
        self.flip_test, self.threshold, self.metrics = bool(get("flip_test", False)), float(get("threshold", 0.3)), tuple(get("metrics", ("coco",)))
        if self.radius not in RADII:
            raise ConfigError(f"task.radius {self.radius!r} is unknown; {nearest(self.radius, RADII)}")
        for metric in self.metrics:
            if metric not in METRICS:
                raise ConfigError(f"task.metrics {metric!r} is unknown; {nearest(metric, METRICS)}")
        super().__init__(config, problem)

    def make_augment(self):
        return make_box_augment(self.config.augment, self.constants["mean"], self.constants["std"])

    def _check(self, batch: Mapping[str, Any]) -> None:
        """While a training or an evaluation is traced, before anything is computed."""
        if "boxes" not in batch:
            raise DataError("detection learns from boxes, and the data have none; take data.source 'coco', 'voc' or 'shapes'")
        if "coco" in self.metrics:
            check_coco()

    def prepare(self, batch, key, *, train):
        batch, valid = dict(batch), batch["valid"].astype(jnp.float32)
        if not train:
            return {**batch, "image": self.augment.normalize(batch["image"]), "weight": valid}
        self._check(batch)
        row = jnp.arange(len(valid))
        image, boxes, kept = self.augment(key, batch["image"], batch["boxes"], batch["box_valid"] & batch["valid"][:, None], row)
        if "box_ignore" in batch and not self.ignored:
            kept = kept & ~batch["box_ignore"]
        stride = self.model.stride
        cells = (image.shape[1] // stride, image.shape[2] // stride)
        aims = targets(boxes, batch["box_label"], kept, cells, len(self.problem.classes), stride=stride, form=self.radius)
        # Of the whole batch, so that its parts may be computed apart: an example's sum times this, and the mean over examples, is the batch's loss.
        examples = len(valid)
        centres = jnp.maximum((aims.heat == 1).sum(), 1) / examples
        coordinates = (2 * aims.valid.sum() + 1e-4) / examples
        shares = {"per_centre": jnp.full(examples, 1 / centres), "per_coordinate": jnp.full(examples, 1 / coordinates)}
        kept_columns = {name: batch[name] for name in ("index", "valid")}
        return {**kept_columns, "image": image, "boxes": boxes, "aims": aims, "weight": valid, **shares}

    def loss(self, params, extra, frozen, batch, key, *, static, train):
        variables = {"params": params, **{name: extra[name] for name in ("batch_stats",) if name in extra}}
        maps, new = self.model.apply(variables, batch["image"], train=True, rngs={"dropout": key}, mutable=["batch_stats"])
        aims: Targets = batch["aims"]
        heat = weighted_mean(focal_loss(maps["heat"], aims.heat) * batch["per_centre"], batch["weight"])
        size, offset = (
            weighted_mean(center_distance(maps[name], getattr(aims, name), aims) * batch["per_coordinate"], batch["weight"])
            for name in ("size", "offset")
        )
        value = heat + self.weights[0] * size + self.weights[1] * offset
        return value, {"metrics": {"heat": heat, "size": size, "offset": offset}, "extra": dict(new)}

    def found(self, variables: Mapping[str, Any], image: Float[Array, "b h w c"]) -> tuple[Found, Float[Array, "b h w k"]]:
        """(boxes in pixels of the normalized images, probabilities of centres)."""
        maps = self.model.apply(variables, image, train=False)
        heat, size = jax.nn.sigmoid(maps["heat"]), maps["size"]
        if self.flip_test:
            mirrored = self.model.apply(variables, image[:, :, ::-1], train=False)
            heat = (heat + jax.nn.sigmoid(mirrored["heat"])[:, :, ::-1]) / 2
            size = (size + mirrored["size"][:, :, ::-1]) / 2
        return peaks(heat, size, maps["offset"], self.count, self.model.stride), heat

    def evaluate(self, variables, state, batch):
        self._check(batch)
        found, _ = self.found(variables, batch["image"])
        truth = in_picture(batch["boxes"], batch)
        area = jnp.prod(truth[..., 2:] - truth[..., :2], -1)
        rows = {"boxes": in_picture(found.boxes, batch), "box_label": found.label, "box_score": found.score, "truth": truth}
        rows |= {"truth_label": batch["box_label"], "truth_valid": batch["box_valid"], "truth_area": batch.get("box_area", area)}
        return {}, {**rows, "truth_ignore": batch.get("box_ignore", jnp.zeros_like(batch["box_valid"]))}

    def summarize(self, rows, names):
        return {name: figure for metric in self.metrics for name, figure in METRICS[metric](rows["test"], len(names)).items()}

    def predict(self, state, batch):
        found, _ = self.found(self.variables(state), self.augment.normalize(batch["image"]))
        boxes = {"boxes": in_picture(found.boxes, batch), "box_label": found.label, "box_score": found.score}
        return {**boxes, "box_valid": found.score >= self.threshold, **({"size": batch["size"]} if "size" in batch else {})}

    def figures(self, state, batch) -> dict[str, Float[Array, "n h w c"]]:
        """Columns of a sheet for people, a row an example: true boxes, those found, and the highest probability of a centre."""
        batch = jax.tree.map(lambda leaf: leaf[:SHOWN], dict(batch))
        image = jnp.broadcast_to(batch["image"].astype(jnp.float32) / 255, (*batch["image"].shape[:-1], 3))
        found, heat = self.found(self.variables(state), self.augment.normalize(batch["image"]))
        best, width = jax.tree.map(lambda leaf: leaf[:, :DRAWN], found), 1 + image.shape[1] // 256
        return {
            "truth": draw(image, batch["boxes"], batch["box_label"], batch["box_valid"], width),
            "found": draw(image, best.boxes, best.label, best.score >= self.threshold, width),
            "centres": repeat_pixels(heat.max(-1, keepdims=True), self.model.stride),
        }


def in_picture(boxes: Float[Array, "b n 4"], batch: Mapping[str, Any]) -> Float[Array, "b n 4"]:
    """Boxes in pixels of the network's image, in those of the picture that it was made of, cut at its edges; as they are where nothing says more."""
    if "place" not in batch:
        return jnp.clip(boxes, 0, jnp.asarray(batch["image"].shape[1:3] * 2, jnp.float32))
    corner, unit = jnp.split(batch["place"][:, None], 2, axis=-1)
    limit = jnp.tile(batch["size"].astype(jnp.float32), 2)[:, None]
    return jnp.clip(boxes * jnp.tile(unit, 2) + jnp.tile(corner, 2), 0, limit)


TASK = CenterNet
