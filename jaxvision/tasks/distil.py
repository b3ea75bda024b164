"""Distillation: a student learns from labels and from a teacher of any family, which never changes.

The teacher is the frozen network `config.frozen.teacher`: a file of weights in any layout that interop reads, a workdir, or an earlier stage. It has
its own architecture, image size, normalization, dtypes and place on the mesh, sees the student's augmented (and mixed) pictures, and runs in
evaluation, without gradient of its own. Logits are compared as in Hinton et al. 2015 (arXiv 1503.02531, "kd") or by correlations as in DIST
(Huang et al. 2022, arXiv 2205.10536, "dist"); maps by normalized squares after a 1x1 convolution ("features"). A method of its own overrides
`adapters` and `compare`, and names in `student_watch` and `teacher_watch` the modules whose outputs it wants (nn/taps.py).

The parameters are {"student", and one branch an adapter}: a later stage takes the student with `init_from="stage:…"` and `init_branch="student"`,
and evaluation and prediction need nothing else. "kd" is the cross-entropy with the teacher's shares, as ScaleKD's code has it: the divergence plus
the teacher's entropy, which has no gradient. "dist" correlates the columns of a whole (micro-)batch, so accumulating changes it.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.errors import ConfigError, nearest
from jaxvision.models.registry import variant_of
from jaxvision.nn.classifier import torch_bias, torch_kernel
from jaxvision.nn.patch import patch_grid
from jaxvision.nn.pointwise import Pointwise
from jaxvision.nn.projector import unit
from jaxvision.nn.resize import resize
from jaxvision.nn.taps import run_watched
from jaxvision.tasks import teacher_cache
from jaxvision.tasks.base import weighted_mean
from jaxvision.tasks.classify import Classify
from jaxvision.tasks.networks import build_frozen, network_size

TEACHER, STUDENT = "teacher", "student"


def kd(student: Float[Array, "b k"], teacher: Float[Array, "b k"], weight: Float[Array, "b"], temperature: float) -> Float[Array, ""]:
    """T^2 times the cross-entropy of the student's softened shares with the teacher's, mean over rows."""
    shares = jax.nn.softmax(teacher / temperature)
    return temperature**2 * weighted_mean(-(shares * jax.nn.log_softmax(student / temperature)).sum(-1), weight)


def dist(student: Float[Array, "b k"], teacher: Float[Array, "b k"], weight: Float[Array, "b"], temperature: float) -> Float[Array, ""]:
    """T^2 times (1 - correlation) of the softened shares, over classes of a row, plus the same over rows of a class."""
    a, b = (jax.nn.softmax(logits / temperature) for logits in (student, teacher))
    rows, columns = correlation(a, b, jnp.ones_like(a), 1), correlation(a, b, weight[:, None], 0)
    return temperature**2 * (weighted_mean(1 - rows, weight) + (1 - columns).mean())


def correlation(a: Float[Array, "b k"], b: Float[Array, "b k"], weight: Float[Array, "b #k"], axis: int) -> Float[Array, "n"]:
    """Pearson's, weighted, over one axis."""
    share = weight / weight.sum(axis, keepdims=True)
    a, b = (x - (share * x).sum(axis, keepdims=True) for x in (a, b))
    square = lambda x: (share * jnp.square(x)).sum(axis)
    return (share * a * b).sum(axis) / jnp.maximum(jnp.sqrt(jnp.maximum(square(a) * square(b), 1e-24)), 1e-8)


def none(student, teacher, weight, temperature):
    return jnp.float32(0)


LOGITS = {"kd": kd, "dist": dist, "none": none}


class Seen(NamedTuple):
    """What one network gave for a batch.

    Attributes:
      image: as this network saw it; logits; outputs: of watched modules, by name, as the module gave them; maps: the same as maps (b, h, w, c).
    """

    image: Array
    logits: Array
    outputs: dict[str, Array]
    maps: dict[str, Array]


class Distilled(nn.Module):
    """The student among what it is trained with: its logits, from variables in which it is a branch."""

    student: nn.Module

    def __call__(self, image: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b k"]:
        return self.student(image, train=train)

    def stages(self, image: Float[Array, "b h w c"], *, train: bool = False):
        return self.student.stages(image, train=train)


def as_map(value: Array, network: nn.Module, image: Array) -> Float[Array, "b h w c"]:
    """A module's output as a map: tokens lose those before the patches. Raises ConfigError for what is neither map nor tokens."""
    if value.ndim == 4:
        return value
    if value.ndim != 3 or not hasattr(network, "patch"):
        raise ConfigError(f"a watched module of {type(network).__name__} gives {value.shape}: name one that gives a map or all tokens")
    rows, columns = patch_grid(image.shape[1:3], network.patch)
    return value[:, value.shape[1] - rows * columns :].reshape(value.shape[0], rows, columns, value.shape[2])


def as_output(made: Float[Array, "b h w c"], like: Array) -> Array:
    """The inverse of `as_map`: a map in the form of a module's output `like`, whose tokens before the patches it takes."""
    if like.ndim == 4:
        return made
    tokens = made.reshape(made.shape[0], -1, made.shape[-1])
    return jnp.concatenate([like[:, : like.shape[1] - tokens.shape[1]].astype(tokens.dtype), tokens], axis=1)


def squares(made: Float[Array, "b h w c"], target: Float[Array, "b h w c"]) -> Float[Array, "b"]:
    """|made / |made| - target / |target||^2 with lengths over channels, summed over positions."""
    return jnp.square(unit(made) - unit(target)).sum((1, 2, 3))


class Distil(Classify):
    """Keys of config.task beside those of "classify":

    logits: "kd", "dist" or "none"; temperature; label_weight, logit_weight: of the two losses (0.5 each; the label's is 1 without logits).
    features: ({"student": module, "teacher": module, "weight": w}, …), maps of one grid that are compared.
    cache: whether the teacher is asked once about each picture (teacher_cache.py), which must not change then.
    """

    KEYS = (*Classify.KEYS, "logits", "temperature", "label_weight", "logit_weight", "features", "cache")
    branch = STUDENT

    def __init__(self, config, problem):
        get = config.task.get
        self.logits, self.temperature = get("logits", "kd"), float(get("temperature", 1.0))
        if self.logits not in LOGITS:
            raise ConfigError(f"task.logits {self.logits!r} is unknown; {nearest(self.logits, LOGITS)}")
        if not self.temperature > 0:
            raise ConfigError(f"task.temperature is {self.temperature:g}; it must be above 0")
        if TEACHER not in config.frozen:
            raise ConfigError(f"task {config.task.name!r} needs a teacher: set frozen.teacher.source, a file of weights, a workdir or 'stage:<name>'")
        self.weights = get("label_weight", 1.0 if self.logits == "none" else 0.5), get("logit_weight", 0.5)
        self.features = tuple(dict(feature) for feature in get("features", ()))
        for feature in self.features:
            if set(feature) != {"student", "teacher", "weight"}:
                raise ConfigError(f"task.features: each is {{'student': module, 'teacher': module, 'weight': number}}, got {feature}")
        super().__init__(config, problem)
        section, noted = config.frozen[TEACHER], problem.frozen.get(TEACHER, {})
        self.teacher = build_frozen(TEACHER, section, noted)
        self.teacher_size, self.renormalize = self._teacher_input(section, noted)
        self._check_classes(noted)
        self.student_shapes, self.teacher_shapes = self._shapes(section)
        self.adapted = self.adapters()
        self.cache = bool(get("cache", False))
        if self.cache:
            teacher_cache.check(config, self.augment)

    def build(self):
        return Distilled(super().build())

    def _teacher_input(self, section, noted):
        """((height, width), (factor, shift) a channel) by which the student's normalized picture becomes the teacher's."""
        size, constants = tuple(self.teacher.image_size), noted.get("constants", {})
        values = []
        for key in ("mean", "std"):
            value = section.get(key, None) or constants.get(key) or getattr(variant_of(section.get("model", self.config.model.name)), key)
            value = tuple(value) * (self.problem.channels if len(value) == 1 else 1)
            if len(value) != self.problem.channels:
                raise ConfigError(f"frozen.teacher.{key} has {len(value)} values, the images have {self.problem.channels} channels")
            values.append(jnp.asarray(value, jnp.float32))
        mean, std = (jnp.asarray(self.constants[key], jnp.float32) for key in ("mean", "std"))
        return size, (std / values[1], (mean - values[0]) / values[1])

    def _check_classes(self, noted):
        classes, own = len(self.problem.classes), noted.get("classes", None)
        if self.logits != "none" and (tuple(own) != tuple(self.problem.classes) if own else self.teacher.num_classes != classes):
            width = len(own) if own else self.teacher.num_classes
            raise ConfigError(
                f"the teacher's {width} classes are not the data's {classes}: set frozen.teacher.num_classes to the file's, or task.logits='none'"
            )

    def _shapes(self, section):
        """`Seen` of student and teacher for one picture, as shapes."""
        image = jax.ShapeDtypeStruct((1, *network_size(self.config), self.problem.channels), jnp.float32)
        init = lambda network, image: network.init(jax.random.key(0), image, train=False)
        student = jax.eval_shape(lambda image: self.see(self.model.student, init(self.model.student, image), image, self.student_watch)[0], image)
        there = jax.ShapeDtypeStruct((1, *self.teacher_size, self.problem.channels), jnp.float32)
        teacher = jax.eval_shape(lambda image: self.see(self.teacher, init(self.teacher, image), image, self.teacher_watch)[0], there)
        return student, teacher

    # --- what a method says ---

    @property
    def student_watch(self) -> tuple[str, ...]:
        return tuple(feature["student"] for feature in self.features)

    @property
    def teacher_watch(self) -> tuple[str, ...]:
        return tuple(feature["teacher"] for feature in self.features)

    def adapters(self) -> dict[str, tuple[nn.Module, tuple[Any, ...]]]:
        """{branch of the parameters: (module, shapes that it is called with)} that are trained beside the student and left behind."""
        found = {}
        for number, feature in enumerate(self.features):
            made, target = self.student_shapes.maps[feature["student"]], self.teacher_shapes.maps[feature["teacher"]]
            if made.shape[1:3] != target.shape[1:3]:
                grids = f"{feature['student']} is {made.shape[1:3]}, {feature['teacher']} {target.shape[1:3]}"
                raise ConfigError(f"task.features: {grids}; maps of one grid can be compared")
            types = {"dtype": self.model.student.dtype, "param_dtype": self.model.student.param_dtype}
            align = Pointwise(target.shape[-1], kernel_init=torch_kernel, bias_init=torch_bias(made.shape[-1]), **types)
            if made.shape[-1] != target.shape[-1]:
                found[f"align_{number}"] = (align, (made,))
        return found

    def compare(self, adapt, student: Seen, teacher: Seen, frozen, weight) -> dict[str, Array]:
        """{name: scalar} of what is added to the losses of labels and logits. `adapt(branch, *arrays)` applies an adapter."""
        terms = {}
        for number, feature in enumerate(self.features):
            made, target = student.maps[feature["student"]], teacher.maps[feature["teacher"]]
            made = adapt(f"align_{number}", made) if f"align_{number}" in self.adapted else made
            terms[f"feature_{number}"] = feature["weight"] * weighted_mean(squares(made, target), weight)
        return terms

    # --- how it is run ---

    def see(self, network, variables, image, watch, mutable=(), **keys):
        """(`Seen` of an image, new collections)."""
        logits, outputs, new = run_watched(network, variables, image, watch=watch, mutable=mutable, **keys)
        return Seen(image, logits, outputs, {name: as_map(value, network, image) for name, value in outputs.items()}), new

    def teach(self, frozen, image) -> Seen:
        """The teacher's answer to the student's pictures."""
        factor, shift = self.renormalize
        image = image.astype(jnp.float32) * factor + shift
        if image.shape[1:3] != self.teacher_size:
            image = resize(image, self.teacher_size, border="cut")
        return jax.lax.stop_gradient(self.see(self.teacher, frozen[TEACHER], image, self.teacher_watch, train=False)[0])

    def teach_once(self, frozen, image, index, kept) -> tuple[Seen, dict[str, Any]]:
        """(`teach`, what of it is kept); the teacher is not run where all of the pictures are known."""

        def said():
            seen = self.teach(frozen, image)
            return {"logits": seen.logits, "outputs": seen.outputs}

        answer = teacher_cache.ask(kept, index, said)
        there = jnp.zeros((image.shape[0], *self.teacher_size, image.shape[-1]), jnp.float32)  # of which the size counts
        maps = {name: as_map(value, self.teacher, there) for name, value in answer["outputs"].items()}
        return Seen(there, answer["logits"], answer["outputs"], maps), answer

    def init_extra(self, key, params, frozen):
        if not self.cache:
            return {}
        said = {"logits": self.teacher_shapes.logits, "outputs": self.teacher_shapes.outputs}
        return {"taught": teacher_cache.empty(self.problem.train_size, said)}

    def after_update(self, params, extra, outputs, batch, step):
        return {**extra, "taught": teacher_cache.keep(extra["taught"], batch["index"], outputs)} if self.cache else extra

    def init_variables(self, key, shapes):
        size = self.augment.size or network_size(self.config)
        image = jnp.zeros((1, *size, self.problem.channels), jnp.float32)
        keys = jax.random.split(key, 1 + len(self.adapted))
        parts = {STUDENT: self.model.student.init(keys[0], image, train=False)}
        for part_key, (name, (module, called)) in zip(keys[1:], self.adapted.items(), strict=True):
            parts[name] = module.init(part_key, *(jnp.zeros(shape.shape, shape.dtype) for shape in called))
        found: dict[str, Any] = {}
        for name, variables in parts.items():
            for collection in ("params", "batch_stats"):
                if collection in variables:
                    found.setdefault(collection, {})[name] = variables[collection]
        return found

    def adapter_of(self, variables, updates: dict[str, Any], train: bool):
        """adapt(branch, *arrays); in training new batch statistics are put into `updates`."""

        def adapt(name, *arrays):
            module, _ = self.adapted[name]
            keys = {"train": train} if hasattr(module, "norm_groups") else {}
            made, new = module.apply(branch_of(variables, name), *arrays, mutable=["batch_stats"] if train else [], **keys)
            updates.update({name: new["batch_stats"]} if "batch_stats" in new else {})
            return made

        return adapt

    def loss(self, params, extra, frozen, batch, key, *, static, train):
        variables = {"params": params, **{name: extra[name] for name in ("batch_stats",) if name in extra}}
        image, weight = batch["image"], batch["weight"]
        keys = {"train": True, "rngs": {"dropout": key}, "mutable": ("batch_stats",)}
        student, new = self.see(self.model.student, branch_of(variables, STUDENT), image, self.student_watch, **keys)
        teacher, said = self.teach_once(frozen, image, batch["index"], extra["taught"]) if self.cache else (self.teach(frozen, image), {})
        updates = {STUDENT: new["batch_stats"]} if "batch_stats" in new else {}
        label = weighted_mean(self.per_example_loss(student.logits, batch["target"]), weight)
        terms = {"label": self.weights[0] * label}
        if self.logits != "none":
            given = teacher.logits.astype(jnp.float32)
            terms["logits"] = self.weights[1] * LOGITS[self.logits](student.logits, given, weight, self.temperature)
        terms |= self.compare(self.adapter_of(variables, updates, train=True), student, teacher, frozen, weight)
        hit = lambda logits: weighted_mean(logits.argmax(-1) == batch["target"].argmax(-1), weight)
        metrics = {"accuracy": hit(student.logits), **terms}
        if self.teacher.num_classes == len(self.problem.classes):
            metrics["teacher_accuracy"] = hit(teacher.logits)
        statistics = {"batch_stats": {**extra["batch_stats"], **updates}} if updates else {}
        return functools.reduce(jnp.add, terms.values()), {"metrics": metrics, "extra": statistics, "outputs": said}


def branch_of(variables: dict[str, Any], name: str) -> dict[str, Any]:
    """The part `name` of every collection that has it."""
    return {collection: tree[name] for collection, tree in variables.items() if name in tree}


TASK = Distil
