"""`--mode=analyse`: how sharp the minimum of a run is, how sparse its hidden units, and how robust it is to corruptions.

The measures by which "When Vision Transformers Outperform ResNets…" (Chen et al. 2022, arXiv 2106.01548) compares training with and without
sharpness-aware minimization. Sharpness is that of the training loss on a fixed subset of training images as evaluation sees them: no
augmentation, no label smoothing, no dropout, running batch statistics. Two runs on the same data are measured on the same images, vectors and noise.
"""

import io
import json
import math
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxvision import data as data_room
from jaxvision import optim
from jaxvision.augment.corruptions import CORRUPTIONS, corrupt
from jaxvision.data.subset import limited
from jaxvision.errors import ConfigError
from jaxvision.optim.layers import layer_of
from jaxvision.tasks.classify import Classify
from jaxvision.train.loading import LoadedRun, load_run
from jaxvision.train.modes import own_config
from jaxvision.train.setup import make_decode
from jaxvision.train.stages import stage_folder
from jaxvision.train.writers import replace_file
from jaxvision.trees import named_leaves

SEVERITIES = (1, 2, 3, 4, 5)
# Pixels that one piece of the loss goes through; more are cut and recomputed, so that a Hessian product needs the memory of a piece.
_PIECE = 2**22


def analyse(
    workdir: str | pathlib.Path,
    *,
    checkpoint: str | int = "last",
    stage: str | None = None,
    images: int = 300,
    iterations: int = 20,
    sigmas: Sequence[float] = (0.005, 0.01, 0.02),
    samples: int = 10,
    points: int = 11,
    span: float = 0.5,
    corruptions: Sequence[str] = tuple(CORRUPTIONS),
    severities: Sequence[int] = SEVERITIES,
    report: Callable[[str], Any] = print,
) -> dict[str, Any]:
    """Measures a checkpoint of a classifier and writes analysis.json and analysis.png beside its checkpoints; returns what the file holds.

    loss, accuracy           on the chosen training images
    eigenvalue               dominant one of the loss's Hessian: {"all", "first_block", "last_block"}; blocks are diagonal blocks of it
    flatness                 {sigma: mean loss under Gaussian noise of that standard deviation on all parameters}
    active_share             {MLP: share of hidden units above 0 before the activation}; empty for networks without `nn.mlp.Mlp`
    landscape                {"offsets", "losses"} along two filter-normalized directions
    test                     {"accuracy", "corrupted" (the mean), "by_corruption": {name: [accuracy a severity]}} on the whole test split

    Args:
      images: training images drawn for all but `test`, at most.
      iterations: Hessian-vector products an eigenvalue.
      samples: noises a sigma.
      points, span: of the landscape, a side.

    Raises CheckpointError when there is no such run, ConfigError for a task other than classification.
    """
    run = load_run(workdir, checkpoint=checkpoint, stage=stage, report=report)
    if not isinstance(run.task, Classify):
        raise ConfigError(f"--mode=analyse is for classification, this run's task.name is {run.config.task.name!r}")
    image, target = _training_subset(run, images)
    params, rest = run.variables["params"], {name: value for name, value in run.variables.items() if name != "params"}
    params, rest, key = jax.device_put(params), jax.device_put(rest), jax.random.key(0)
    loss = _loss(run)
    said: dict[str, Any] = {"step": run.step, "images": len(image)}
    said["loss"] = float(jax.jit(loss)(params, rest, image, target))
    logits, taps = jax.jit(lambda variables, image: run.model.apply(variables, image, train=False, mutable="taps"))({"params": params, **rest}, image)
    said["accuracy"] = float(jnp.mean(logits.argmax(-1) == target.argmax(-1)))
    said["active_share"] = _mlps(optim.active_share(taps.get("taps", {}), only="pre_activation"))
    report(f"step {run.step}: loss {said['loss']:.4g}, accuracy {said['accuracy']:.4g} of {len(image)} training images")
    data = (rest, image, target)
    said["eigenvalue"] = {
        part: optim.dominant_eigenvalue(loss, params, key, *data, iterations=iterations, only=only) for part, only in _parts(params).items()
    }
    report("dominant eigenvalue: " + ", ".join(f"{part} {value:.4g}" for part, value in said["eigenvalue"].items()))
    said["flatness"] = {str(sigma): optim.gaussian_flatness(loss, params, key, *data, sigma=sigma, samples=samples) for sigma in sigmas}
    report("loss under noise: " + ", ".join(f"sigma {sigma} {value:.4g}" for sigma, value in said["flatness"].items()))
    offsets, losses = optim.landscape(loss, params, key, *data, span=span, points=points)
    said["landscape"] = {"offsets": offsets.tolist(), "losses": losses.tolist()}
    said["test"] = robustness(run, corruptions, severities)
    report(f"test accuracy {said['test']['accuracy']:.4g}, under corruptions {said['test']['corrupted']:.4g}")
    folder, _ = stage_folder(own_config(None, workdir), workdir, stage)
    replace_file(folder / "analysis.json", json.dumps(said, indent=1).encode())
    draw(said, severities, folder / "analysis.png")
    report(f"wrote {folder}/analysis.json and {folder}/analysis.png")
    return said


def _source(run: LoadedRun, split: str) -> Any:
    return data_room.open_source(run.config.data, split, seed=run.config.seed)


def _batches(run: LoadedRun, source: Any, batch_size: int) -> data_room.EvalStream:
    decode = make_decode(run.config, len(run.constants["mean"]), run.constants["crop"])
    return data_room.EvalStream(source, batch_size=batch_size, image=decode, workers=run.config.data.workers, corrupt=run.config.data.corrupt)


def _training_subset(run: LoadedRun, count: int) -> tuple[jax.Array, jax.Array]:
    """(normalized images, one-hot labels) of `count` training examples, the same ones for every run on these data."""
    source = _source(run, "train")
    source = limited(source, min(count, run.config.data.limit or len(source), len(source)))
    (batch,) = _batches(run, source, len(source))
    batch = run.task.prepare(batch, jax.random.key(0), train=False)
    kept = np.flatnonzero(np.asarray(batch["weight"]))
    return batch["image"][kept], batch["target"][kept]


def _loss(run: LoadedRun) -> Callable:
    """(params, other collections, images, one-hot labels) -> mean loss."""

    def piece(params, rest, image, target):
        return run.task.per_example_loss(run.model.apply({"params": params, **rest}, image, train=False), target).sum()

    def loss(params, rest, image, target):
        pieces = math.ceil(image[..., 0].size / _PIECE)
        if pieces == 1:
            return piece(params, rest, image, target) / len(image)
        cuts = np.array_split(np.arange(len(image)), pieces)
        return sum(jax.checkpoint(piece)(params, rest, image[cut], target[cut]) for cut in cuts) / len(image)

    return loss


def _parts(params: Any) -> dict[str, str]:
    """{"all", "first_block", "last_block": regular expression that finds its leaves}; those that the network has."""
    names = tuple(named_leaves(params))
    try:
        layers = {name: layer_of(name, names) for name in names}
    except ConfigError:
        return {"all": ""}
    one = lambda layer: "|".join(f"^{re.escape(name)}$" for name in names if layers[name] == layer)
    last = max(layers.values()) - 1
    return {"all": "", "first_block": one(1), **({"last_block": one(last)} if last > 1 else {})}


def _mlps(shares: Mapping[str, float]) -> dict[str, float]:
    """Shares by the MLP's own name, blocks in their order."""
    numbers = lambda name: [int(word) if word.isdigit() else word for word in re.split(r"(\d+)", name)]
    return {name.removesuffix("/pre_activation/0"): shares[name] for name in sorted(shares, key=numbers)}


def robustness(run: LoadedRun, corruptions: Sequence[str] = tuple(CORRUPTIONS), severities: Sequence[int] = SEVERITIES) -> dict[str, Any]:
    """Accuracy on the whole test split: {"accuracy", "corrupted": mean over corruptions and severities, "by_corruption": {name: [a severity]}}.

    Raises ConfigError for images that are not uint8, and for an unknown corruption or severity.
    """

    @jax.jit
    def hits(variables, image, batch):
        batch = run.task.prepare({**batch, "image": image}, key, train=False)
        logits = run.model.apply(variables, batch["image"], train=False)
        return jnp.sum((logits.argmax(-1) == batch["target"].argmax(-1)) * batch["weight"])

    source, key = _source(run, "test"), jax.random.key(0)
    cases = [(name, severity) for name in corruptions for severity in severities]
    variables, seen, found = jax.device_put(dict(run.variables)), 0, dict.fromkeys([None, *cases], 0.0)
    for batch in _batches(run, source, min(run.config.eval_batch_size or run.config.batch_size, len(source))):
        image, rest = jnp.asarray(batch["image"]), {name: batch[name] for name in ("label", "index", "valid")}
        seen += int(batch["valid"].sum())
        counts = {None: hits(variables, image, rest)}
        for name, severity in cases:
            counts[name, severity] = hits(variables, corrupt(key, image, rest["index"], name=name, severity=severity), rest)
        for case, count in counts.items():
            found[case] += float(count)
    accuracy = {case: count / max(seen, 1) for case, count in found.items()}
    by_name = {name: [accuracy[name, severity] for severity in severities] for name in corruptions}
    return {"accuracy": accuracy[None], "corrupted": float(np.mean(list(by_name.values()))) if cases else accuracy[None], "by_corruption": by_name}


def draw(said: Mapping[str, Any], severities: Sequence[int], path: pathlib.Path) -> None:
    """Draws the landscape, the active units of every MLP where there are any, and the accuracy under each corruption."""
    from matplotlib.figure import Figure

    active, by_name = said["active_share"], said["test"]["by_corruption"]
    panels = 1 + bool(active) + bool(by_name)
    figure = Figure(figsize=(5.2 * panels, 4.4), layout="constrained")
    axes = iter(figure.subplots(1, panels, squeeze=False)[0])

    here = next(axes)
    offsets, losses = np.asarray(said["landscape"]["offsets"]), np.asarray(said["landscape"]["losses"])
    picture = here.contourf(offsets, offsets, losses.T, levels=20, cmap="viridis")
    here.plot(0, 0, "o", color="white", markersize=4)
    here.set_title("loss around the parameters", fontsize=10, loc="left", fontweight="bold")
    here.set_xlabel(f"dominant eigenvalue {said['eigenvalue']['all']:.4g}", fontsize=8)
    here.set_aspect("equal")
    figure.colorbar(picture, ax=here, shrink=0.8).ax.tick_params(labelsize=7)

    if active:
        here = next(axes)
        here.barh(range(len(active)), [100 * share for share in active.values()], color="#3572b0", height=0.7)
        here.set_yticks(range(len(active)), list(active), fontsize=7)
        here.invert_yaxis()
        here.set_title("hidden units above 0, %", fontsize=10, loc="left", fontweight="bold")

    if by_name:
        here = next(axes)
        table = 100 * np.asarray(list(by_name.values()))
        here.imshow(table, cmap="Blues", vmin=0, vmax=100, aspect="auto")
        for (row, column), value in np.ndenumerate(table):
            here.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=7, color="white" if value > 45 else "#20405f")
        here.set_yticks(range(len(by_name)), [name.replace("_", " ") for name in by_name], fontsize=7)
        here.set_xticks(range(len(severities)), severities, fontsize=7)
        here.set_xlabel(f"severity; without corruption {100 * said['test']['accuracy']:.1f}", fontsize=8)
        here.set_title("test accuracy under corruptions, %", fontsize=10, loc="left", fontweight="bold")

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, facecolor="white")
    replace_file(path, buffer.getvalue())
