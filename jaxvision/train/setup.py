"""Everything a run needs before its first step, the same for training, evaluation and prediction: data, task, mesh, shapes, shardings."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxvision import data as data_room
from jaxvision.data.replay import ReplayStream
from jaxvision.data.subset import limited
from jaxvision.errors import CheckpointError, ConfigError
from jaxvision.models.registry import variant_of
from jaxvision.tasks import make_task
from jaxvision.tasks.base import Problem, Task
from jaxvision.tasks.state import TrainState
from jaxvision.train.architecture import with_architecture
from jaxvision.train.feed import Item, Layout, batch_like, unpack
from jaxvision.train.given import load_frozen, load_init
from jaxvision.train.mesh import batch_sharding, check_batch, make_mesh, replicated, state_shardings
from jaxvision.train.phases import Phase, plan


@dataclasses.dataclass(frozen=True)
class Setup:
    """A run, built but not started.

    Attributes:
      sources: {split: Source}.
      decode: how records become arrays.
      shapes: of a global batch, host dtypes, as ShapeDtypeStructs.
      state_shapes, shardings: trees of the TrainState.
      given: what `Task.init` is given: loaded parameters and frozen networks.
      plan: the phases of the run; there is always one.
      number: of the phase that task, shapes and shardings belong to.
    """

    config: Any
    mesh: Mesh
    sources: dict[str, Any]
    decode: Any
    problem: Problem
    task: Task
    shapes: dict[str, Any]
    state_shapes: TrainState
    shardings: TrainState
    given: dict[str, Any]
    plan: tuple[Phase, ...]
    number: int

    @property
    def phase(self) -> Phase:
        return self.plan[self.number]

    @property
    def total_steps(self) -> int:
        return self.problem.total_steps

    @property
    def eval_batch_size(self) -> int:
        return self.config.eval_batch_size or self.config.batch_size

    def train_stream(self, position: int = 0, step: int = 0):
        """This process's rows of the endless training stream, from example number `position`, which is where the run stands before `step`."""
        make = data_room.TrainStream
        if self.phase.replay is not None:
            uses, remembered = self.phase.replay
            make = functools.partial(ReplayStream, uses=uses, remembered=remembered, step=step - self.phase.start)
        return make(
            self.sources["train"],
            batch_size=self.phase.batch,
            image=self.decode,
            seed=self.config.seed,
            position=position,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            workers=self.config.data.workers,
            prefetch=self.config.data.prefetch,
            corrupt=self.config.data.corrupt,
        )

    def eval_stream(self, source: Any):
        """This process's rows of every example of a source, once."""
        return data_room.EvalStream(
            source,
            batch_size=self.eval_batch_size,
            image=self.decode,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            workers=self.config.data.workers,
            corrupt=self.config.data.corrupt,
        )


def enable_compilation_cache(config: Any) -> None:
    """Keeps executables on disk, so that a resumed or repeated run does not compile again. An already configured cache is left as it is."""
    if config.compilation_cache and not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(config.compilation_cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def make_decode(config: Any, channels: int, crop_share: float) -> Any:
    if config.data.source in data_room.CLIPS:
        return data_room.Clip(tuple(config.image_size), config.data.crop, config.data.interpolation, channels)
    if len(config.image_size) == 3:
        return data_room.Patch(tuple(config.image_size), config.data.balance)
    return data_room.Decode(
        image_size=tuple(config.image_size),
        crop=config.data.crop,
        scale=tuple(config.data.scale),
        ratio=tuple(config.data.ratio),
        interpolation=config.data.interpolation,
        eval_crop=crop_share,
        channels=channels,
        max_boxes=config.data.max_boxes,
    )


def example_shapes(source: Any, decode: Any, batch_size: int) -> dict[str, Any]:
    """Shapes of a global batch of `source`, from its first record."""
    stream = data_room.EvalStream(source, batch_size=1, image=decode, workers=0, corrupt="skip")
    example = next(iter(stream))
    return jax.tree.map(lambda value: jax.ShapeDtypeStruct((batch_size, *np.shape(value)[1:]), np.asarray(value).dtype), dict(example))


def set_up(
    config: Any,
    *,
    sources: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    train_size: int | None = None,
    roots: Mapping[str, pathlib.Path] | None = None,
    frozen: tuple[Mapping[str, Any], Mapping[str, Any]] = ({}, {}),
    use: str = "predict",
    fresh: bool = True,
    phase: int = 0,
    devices: Sequence[jax.Device] | None = None,
) -> Setup:
    """Builds a run from its complete config; touches data (one record) and devices, computes nothing.

    Args:
      sources: instead of those that config.data names, for prediction.
      classes: names that a checkpoint carries, instead of the source's.
      train_size: training examples, which a checkpoint carries too; what is meant in epochs or in shares of the run depends on it.
      roots: {stage name: folder} that "stage:<name>" refers to.
      frozen: copies of frozen networks that a checkpoint carries, and what it notes of them.
      use: "predict" or "evaluate", what the run is restored for; frozen networks that the task does it without may have gone.
      fresh: read config.init_from too; a run that is restored does not need it.
      phase: number of the phase that the run, or its checkpoint, is in.

    Raises ConfigError, DataError or ModelError, each a line that says what would be right.
    """
    enable_compilation_cache(config)
    config = with_architecture(config, roots or {})
    mesh = make_mesh(config.mesh, devices)
    check_batch(config.batch_size, mesh, config.optim.accumulate)
    check_batch(config.eval_batch_size or config.batch_size, mesh, name="eval_batch_size" if config.eval_batch_size else "batch_size")
    if not config.model.name:
        raise ConfigError("config key 'model.name' is empty; jaxvision.list_models() says what there is")
    variant = variant_of(config.model.name)
    if sources is None:
        sources = {split: data_room.open_source(config.data, split, seed=config.seed) for split in ("train", "test")}
        if config.data.limit is not None:
            sources["train"] = limited(sources["train"], config.data.limit, config.data.limit_seed, config.data.limit_by)
    first = next(iter(sources.values()))
    channels = config.data.channels or len(config.data.mean or variant.mean)
    crop_share = config.data.eval_crop if config.data.eval_crop is not None else variant.crop
    decode = make_decode(config, channels, crop_share)
    shapes = example_shapes(first, decode, config.batch_size)
    if train_size is None:
        train_size = len(sources["train"]) if "train" in sources else len(first)
    phases = plan(config, train_size)
    phase = min(phase, len(phases) - 1)
    networks, noted = load_frozen(config, roots or {}, *frozen)
    problem = Problem(
        classes=tuple(classes if classes is not None else first.classes),
        channels=next((int(shapes[name].shape[-1]) for name in ("image", "volume", "clip") if name in shapes), channels),
        train_size=train_size,
        total_steps=phases[-1].stop,
        steps_per_epoch=train_size / config.batch_size,
        frozen=noted,
    )
    task, given = _task_of(config, problem, phases[phase], mesh), {"frozen": networks}
    needed = {"predict": task.predict_frozen, "evaluate": task.evaluate_frozen}[use]
    if absent := [name for name in needed if name in config.frozen and name not in networks]:
        raise CheckpointError(f"frozen.{absent[0]}: its source has gone, and this checkpoint carries no copy; take the run's last one")
    shapes = _batched(shapes, phases[phase].batch)
    if fresh and config.init_from:
        wanted = jax.eval_shape(lambda: dict(task.init_variables(jax.random.key(0), shapes)))
        given |= load_init(task.config, roots or {}, task, wanted)
    state_shapes, shardings = _state_of(task, shapes, given, mesh)
    return Setup(config, mesh, dict(sources), decode, task.problem, task, shapes, state_shapes, shardings, given, phases, phase)


def _task_of(config: Any, problem: Problem, phase: Phase, mesh: Mesh) -> Task:
    check_batch(phase.batch, mesh, config.optim.accumulate)
    steps = {"steps_per_epoch": problem.train_size / phase.batch, "schedule": (phase.total, phase.offset)}
    return make_task(phase.config(config), dataclasses.replace(problem, **steps, crop=phase.crop, magnitudes=phase.magnitudes))


def _batched(shapes: Any, batch: int) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((batch, *leaf.shape[1:]), leaf.dtype), shapes)


def _state_of(task: Task, shapes: Any, given: Any, mesh: Mesh) -> tuple[TrainState, TrainState]:
    """(shapes, shardings) of the state."""
    with jax.set_mesh(mesh):
        state_shapes = jax.eval_shape(lambda given: task.init(jax.random.key(0), shapes, given), given)
        return state_shapes, state_shardings(state_shapes, mesh, tuple(task.config.mesh.rules))


def in_phase(setup: Setup, number: int) -> Setup:
    """The same run in another of its phases. Raises ModelError for a size that the architecture does not allow."""
    phase = setup.plan[number]
    task, shapes = _task_of(setup.config, setup.problem, phase, setup.mesh), _batched(setup.shapes, phase.batch)
    state_shapes, shardings = _state_of(task, shapes, {"frozen": setup.given["frozen"]}, setup.mesh)
    built = {"problem": task.problem, "task": task, "shapes": shapes, "state_shapes": state_shapes, "shardings": shardings}
    return dataclasses.replace(setup, **built, number=number)


class Executables:
    """The jitted functions of a run. What they take and give is sharded explicitly; the state is donated, frozen networks are not.

    A state travels as (state without frozen, frozen). Metrics come back as one vector; `names[static]` says which is which.
    """

    def __init__(self, setup: Setup):
        self.setup, self.names, self._streams, self._compiled = setup, {}, {}, {}
        task, config, mesh = setup.task, setup.config, setup.mesh
        frozen_sharding, carry_sharding = setup.shardings.frozen, setup.shardings.replace(frozen={})
        batch, everywhere = batch_sharding(mesh), replicated(mesh)

        def init(given):
            # The seed is a constant of the program: with several processes there is no array to agree upon.
            state = task.init(jax.random.key(config.seed), setup.shapes, given)
            return state.replace(frozen={}), state.frozen

        def train_step(carry, frozen, arrays, layout: Layout, static):
            state, metrics = task.train_step(carry.replace(frozen=frozen), unpack(arrays, layout), static=static)
            self.names[static] = tuple(sorted(metrics))
            vector = jax.numpy.stack([metrics[name].astype(jax.numpy.float32) for name in self.names[static]])
            return state.replace(frozen={}), vector

        def eval_step(carry, frozen, arrays, layout: Layout):
            return task.eval_step(carry.replace(frozen=frozen), unpack(arrays, layout))

        def predict(carry, frozen, arrays, layout: Layout):
            arrays = unpack(arrays, layout)
            return {**task.predict(carry.replace(frozen=frozen), arrays), "index": arrays["index"], "valid": arrays["valid"]}

        self.init = jax.jit(init, out_shardings=(carry_sharding, frozen_sharding))
        self.init_frozen = jax.jit(lambda given: init(given)[1], out_shardings=frozen_sharding)
        self.train_step = jax.jit(
            train_step,
            in_shardings=(carry_sharding, frozen_sharding, batch),
            out_shardings=(carry_sharding, everywhere),
            static_argnames=("layout", "static"),
            donate_argnums=0,
        )
        def draw(carry, frozen, arrays, layout: Layout):
            return task.figures(carry.replace(frozen=frozen), unpack(arrays, layout))

        known = dict(in_shardings=(carry_sharding, frozen_sharding, batch), out_shardings=everywhere, static_argnames=("layout",))
        self.eval_step = jax.jit(eval_step, **known)
        self.predict = jax.jit(predict, **known)
        self.figures = jax.jit(draw, **known)

    def lowered(self, evaluation: bool = True) -> Iterator[tuple[tuple, jax.stages.Lowered]]:
        """(key, program) of the train step (each static choice), and of the evaluation step if asked, for the batches that the config promises."""
        setup, (carry, frozen) = self.setup, (self.like(), _like(self.setup.state_shapes.frozen, self.setup.shardings.frozen))
        arrays, layout = batch_like(setup.shapes, batch_sharding(setup.mesh))
        for static in setup.task.statics:
            yield ("train", layout, static), self.train_step.lower(carry, frozen, arrays, layout, static)
        if evaluation:
            shapes, step = setup.shapes, self.eval_step
            if setup.task.windows is not None:
                shapes, step = {name: shapes[name] for name in ("volume", "index", "valid")}, self.predict
            arrays, layout = batch_like(_batched(shapes, setup.eval_batch_size), batch_sharding(setup.mesh))
            yield ("eval", layout), step.lower(carry, frozen, arrays, layout)

    def compile(self, evaluation: bool = True) -> None:
        """Compiles the programs of `lowered`; `train` and `evaluate` use them from then on."""
        for key, program in self.lowered(evaluation):
            self._compiled[key] = program.compile()

    def train(self, carry: TrainState, frozen: Any, item: Item, static: Any) -> tuple[TrainState, jax.Array]:
        """One train step, by what was compiled ahead where there is such."""
        if compiled := self._compiled.get(("train", item.layout, static)):
            return compiled(carry, frozen, item.arrays)
        return self.train_step(carry, frozen, item.arrays, item.layout, static)

    def evaluate(self, carry: TrainState, frozen: Any, item: Item) -> tuple[dict, dict]:
        """One evaluation step, likewise."""
        if compiled := self._compiled.get(("eval", item.layout)):
            return compiled(carry, frozen, item.arrays)
        return self.eval_step(carry, frozen, item.arrays, item.layout)

    def eval_stream(self, split: str):
        """The stream of a split, the same at every call: its worker processes are started once."""
        if split not in self._streams:
            self._streams[split] = self.setup.eval_stream(self.setup.sources[split])
        return self._streams[split]

    def close(self) -> None:
        """Ends the worker processes of evaluation."""
        for stream in self._streams.values():
            stream.close()

    def like(self) -> TrainState:
        """Shapes with shardings of what a checkpoint holds: the state without its frozen networks."""
        return _like(self.setup.state_shapes.replace(frozen={}), self.setup.shardings.replace(frozen={}))


def _like(shapes: Any, shardings: Any) -> Any:
    return jax.tree.map(lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes, shardings)


def prepare_workdir(workdir: str | os.PathLike) -> pathlib.Path:
    """The folder of a run, made if absent. Raises ConfigError when it cannot be written."""
    path = pathlib.Path(workdir)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".write_test_{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(f"--workdir={workdir} cannot be written: {error.strerror or error}") from error
    return path
