"""Where a network's time goes, layer by layer: waterlines, efficiency gaps, and plans of fused blocks (Lavin 2024, arXiv 2404.03617).

A layer that does less arithmetic for a byte than the chip can, in the time that the byte takes, waits for memory. The waterline is that intensity,
peak over memory rate: layers are bars, as wide as their share of the operations and as high as the rate that their intensity allows, and what a whole
network can attain is the harmonic mean of these heights. The bars come from the compiled program, so they are those of the kernels that would run,
fused as the compiler fuses them; beside the attainable rate stands the predicted one, and the gap between the two is the kernels' own.

    python -m jaxvision.train.waterline --model=convnext_tiny --topology=v5e:1x1 --batch=128 --out=runs/waterline
        writes waterline.png and waterline.txt
    python -m jaxvision.train.waterline --model=convnext_tiny:0.821,resnet50:0.804 --topology=v5e:1x1 --out=runs/gaps
        a waterline each, and gaps.png, gaps.txt: from the time of the operations at the peak to the predicted one, over accuracies that you name,
        and below it the waterlines, where each layer's gap is the pale part of its bar
    python -m jaxvision.train.waterline --plan=56,56,64 --topology=v5e:1x1 --batch=32
        how a tensor machine would run the three kinds of blocks on maps of 56 x 56 x 64, fused and layer by layer

The reading of bars in detail is ours: the paper shows the idea on its own models and kernels.
"""

import argparse
import dataclasses
import math
import os
import pathlib
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from jaxvision.errors import ConfigError, UserError
from jaxvision.models.registry import create_model
from jaxvision.train.figures import _save
from jaxvision.train.preflight import hlo, price
from jaxvision.train.preflight.chips import Chip, chip_of
from jaxvision.train.preflight.grouped import grouped_cycles
from jaxvision.train.preflight.kernels import kernel_cycles
from jaxvision.train.preflight.topology import COMPILER_OPTIONS, open_topology


@dataclasses.dataclass(frozen=True)
class Bar:
    """A layer, or whatever runs as one: operations (two a multiply-add), bytes to and from the main memory, seconds predicted for it."""

    name: str
    flops: float
    bytes: float
    seconds: float = 0.0

    @property
    def intensity(self) -> float:
        """Operations a byte."""
        return self.flops / self.bytes if self.bytes else math.inf

    def attainable(self, chip: Chip) -> float:
        """Operations a second that the intensity allows: the roofline."""
        return min(chip.flops, self.intensity * chip.bandwidth)

    def least_seconds(self, chip: Chip) -> float:
        return max(self.flops / chip.flops, self.bytes / chip.bandwidth)


def waterline(chip: Chip) -> float:
    """Operations a byte above which a layer can reach the peak."""
    return chip.flops / chip.bandwidth


def attainable(bars: Iterable[Bar], chip: Chip) -> float:
    """Operations a second of layers one after another, each at the rate that its intensity allows; those without operations count by their bytes."""
    bars = tuple(bars)
    return sum(bar.flops for bar in bars) / sum(bar.least_seconds(chip) for bar in bars)


def bars(module: hlo.Module, chip: Chip, kernels: dict[str, float] | None = None, depth: int = 2) -> list[Bar]:
    """One bar a layer of a compiled program, in its order: ops are grouped by the first `depth` parts of their path of modules below the network."""
    found: dict[str, Bar] = {}
    for priced in price.price(module, chip, kernels):
        name = "/".join(priced.op.layer.split("/")[1 : depth + 1]) or "(no layer)"
        old = found.get(name, Bar(name, 0.0, 0.0))
        found[name] = Bar(name, old.flops + priced.flops, old.bytes + priced.bytes, old.seconds + priced.seconds)
    return list(found.values())


def merged(name: str, parts: Iterable[Bar]) -> Bar:
    """Layers as one, their traffic added up."""
    parts = tuple(parts)
    return Bar(name, sum(bar.flops for bar in parts), sum(bar.bytes for bar in parts), sum(bar.seconds for bar in parts))


def table(bars: Sequence[Bar], chip: Chip) -> str:
    """A line a bar: its share of operations and of predicted time, operations a byte, attainable and predicted rate as shares of the peak.

    What neither computes nor moves anything (norms that are folded into their neighbours) is one line.
    """
    whole = merged("whole", bars)
    counted, others = ([bar for bar in bars if bool(bar.flops or bar.bytes) == kept] for kept in (True, False))
    bars = [*counted, merged("(others)", others)] if others else counted
    lines = [f"{'layer':40} {'GFLOP':>9} {'MB':>9} {'FLOP/B':>8} {'attainable':>10} {'predicted':>9} {'time':>6}"]
    for bar in (*bars, whole):
        reachable = (attainable(bars, chip) if bar is whole else bar.attainable(chip)) / chip.flops
        reached = bar.flops / bar.seconds / chip.flops if bar.seconds else 0.0
        time = bar.seconds / whole.seconds if whole.seconds else 0.0
        lines.append(
            f"{bar.name[-40:]:40} {bar.flops / 1e9:9.2f} {bar.bytes / 1e6:9.2f} {bar.intensity:8.1f} {reachable:10.1%} {reached:9.1%} {time:6.1%}"
        )
    lines.append(f"waterline: {waterline(chip):.0f} FLOP/B ({chip.name}); predicted, not measured")
    return "\n".join(lines)


BOUND_BY_MEMORY, BOUND_BY_PEAK, MEAN = "#d1651f", "#3572b0", "#3d8f53"


def _waterline(axes, bars: Sequence[Bar], chip: Chip) -> None:
    """Bars as high as the attainable rate: full up to the predicted one, pale in the gap between the two."""
    total, left = sum(bar.flops for bar in bars), 0.0
    for bar in (bar for bar in bars if bar.flops):
        width, height = bar.flops / total, bar.attainable(chip) / chip.flops
        rate = bar.flops / bar.seconds / chip.flops if bar.seconds else height
        color = BOUND_BY_MEMORY if bar.intensity < waterline(chip) else BOUND_BY_PEAK
        axes.bar(left, height, width, align="edge", color=color, alpha=0.3, linewidth=0)
        axes.bar(left, min(rate, height), width, align="edge", color=color, edgecolor="white", linewidth=0.5)
        if rate != height:
            axes.plot((left, left + width), (rate, rate), color="black", linewidth=1)
        if width > 0.04:
            axes.text(left + width / 2, 0.02, bar.name, rotation=90, ha="center", va="bottom", fontsize=6)
        left += width
    mean = attainable(bars, chip) / chip.flops
    axes.axhline(mean, color=MEAN, linewidth=1)
    axes.text(1.0, mean, f" attainable {mean:.0%}", va="center", fontsize=8, color=MEAN)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="share of operations", ylabel="share of peak")


def draw(bars: Sequence[Bar], chip: Chip, path: str | os.PathLike) -> pathlib.Path:
    """The waterline plot: width, share of operations; height, attainable rate, of which the part above the predicted one is pale.

    What only moves bytes has no width, and counts in what all of them together attain.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.add_subplot()
    _waterline(axes, bars, chip)
    axes.set_title(f"{chip.name}: attainable (orange: bound by memory), full up to what is predicted", fontsize=9)
    return _save(figure, path)


def draw_gaps(
    networks: Sequence[tuple[str, float, float, float]], path: str | os.PathLike, waterlines: Sequence[tuple[str, Sequence[Bar], Chip]] = ()
) -> pathlib.Path:
    """The efficiency-gap plot of (name, accuracy, ideal seconds, actual seconds): a segment from operations over peak to the time it takes.

    Args:
      waterlines: (name, bars, chip), drawn below it one under the other, so that a network's gap is seen layer by layer.
    """
    from matplotlib.figure import Figure

    count = len(waterlines)
    figure = Figure(figsize=(9 if count else 6, 3.6 + 2.4 * count), layout="constrained")
    axes, *rows = figure.subplots(1 + count, 1, squeeze=False, height_ratios=(1.5, *(1,) * count))[:, 0]
    for name, accuracy, ideal, actual in networks:
        axes.plot((ideal, actual), (accuracy, accuracy), marker="|", color=BOUND_BY_PEAK)
        axes.annotate(f"{name} ({ideal / actual:.0%})", (actual, accuracy), textcoords="offset points", xytext=(6, -3), fontsize=8)
    axes.set(xscale="log", xlabel="seconds: operations at peak, and taken", ylabel="accuracy")
    axes.margins(x=0.25, y=0.15)
    for row, (name, bars, chip) in zip(rows, waterlines):
        _waterline(row, bars, chip)
        row.set_title(f"{name}, {chip.name}", fontsize=9)
    return _save(figure, path)


def of_model(name: str, topology: str, batch: int, image_size: tuple[int, int] | None = None, dtype=jnp.bfloat16, depth: int = 2):
    """(bars, chip) of a model's inference over `batch` images, compiled ahead for one chip of `topology`. Raises ConfigError as `open_topology`."""
    opened = open_topology(topology)
    if len(opened.devices) < 1:
        raise ConfigError(f"--topology={topology} has no device")
    model = create_model(name, dtype=dtype, **({"image_size": image_size} if image_size else {}))
    image = jax.ShapeDtypeStruct((batch, *model.image_size, 3), dtype)
    variables = jax.eval_shape(lambda key, image: model.init(key, image[:1]), jax.random.key(0), image)
    on = SingleDeviceSharding(opened.devices[0])
    forward = jax.jit(lambda variables, image: model.apply(variables, image), in_shardings=on, out_shardings=on)
    compiled = forward.trace(variables, image).lower(lowering_platforms=(opened.chip.platform,)).compile(COMPILER_OPTIONS[opened.chip.platform])
    module = hlo.parse(compiled.as_text())
    listed = kernel_cycles(module, topology, None) | grouped_cycles(module, topology, None)
    return bars(module, opened.chip, listed, depth), opened.chip


# --- plans of fused blocks ---

# kind -> (side of the kernel, input channels that an output of the convolution reads).
KINDS = {"convfirst": (3, 8), "mbconv": (3, 8), "convnext": (7, 1)}


@dataclasses.dataclass(frozen=True)
class Block:
    """A residual block on maps of `height` x `width`: "convfirst", "mbconv" or "convnext", with the arithmetic that it does.

    Attributes:
      group_width: input channels that an output of the convolution reads (1: depthwise).
    """

    kind: str
    height: int
    width: int
    channels: int
    expansion: int = 4
    kernel: int = 3
    group_width: int = 8

    @property
    def inner(self) -> int:
        return self.channels * self.expansion

    def layers(self, batch: int, item: int = 2) -> list[Bar]:
        """Each layer by itself: its input, output and weights pass through memory. Sums and norms are folded in."""
        pixels = batch * self.height * self.width
        spatial = self.inner if self.kind == "mbconv" else self.channels
        window = self.kernel**2 * self.group_width
        conv = Bar("conv", 2.0 * pixels * spatial * window, float(item * (2 * pixels * spatial + spatial * window)))
        wide = 2.0 * pixels * self.channels * self.inner
        moved = float(item * (pixels * (self.channels + self.inner) + self.channels * self.inner))
        expand, project = Bar("expand", wide, moved), Bar("project", wide, moved)
        return [expand, conv, project] if self.kind == "mbconv" else [conv, expand, project]

    def fused(self, batch: int, item: int = 2) -> Bar:
        """All layers in one kernel: input, output and weights pass through memory once."""
        pixels = batch * self.height * self.width
        spatial = self.inner if self.kind == "mbconv" else self.channels
        weights = 2 * self.channels * self.inner + spatial * self.kernel**2 * self.group_width
        return Bar(self.kind, sum(bar.flops for bar in self.layers(batch)), float(item * (2 * pixels * self.channels + weights)))


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a tensor machine runs a block: tiles of `rows` x `columns` output pixels, the inner width `slice_width` channels at a time.

    Attributes:
      workspace: bytes on chip beside the weights of a slice: input tile with its border, and float32 sums.
      flops: operations, those on borders that two tiles compute both included; bytes: moved, borders read twice included.
    """

    rows: int
    columns: int
    slice_width: int
    workspace: int
    flops: float
    bytes: float

    def seconds(self, chip: Chip) -> float:
        return max(self.flops / chip.flops, self.bytes / chip.bandwidth)


def plan(block: Block, chip: Chip, local: int, batch: int, item: int = 2, slice_width: int = 128) -> Plan:
    """The fastest plan whose workspace and weights fit `local` bytes. Raises ConfigError where no tile fits.

    ConvFirst and ConvNeXt convolve the narrow input, of which alone a border is needed, and keep one slice of the wide map. In MBConv the border is
    the wide map's: a slice of it is expanded on the border too, and there is one more map of that width.
    """
    slice_width, best = min(slice_width, block.inner), None
    border = block.kernel - 1
    window = block.kernel**2 * block.group_width
    for rows in range(1, block.height + 1):
        for columns in {block.width, *(block.width // n for n in (2, 4, 8) if block.width // n)}:
            outer, pixels = (rows + border) * (columns + border), rows * columns
            tiles = batch * math.ceil(block.height / rows) * math.ceil(block.width / columns)
            narrow, wide = block.channels, slice_width
            if block.kind == "mbconv":
                held = item * outer * (narrow + wide) + 4 * pixels * narrow + item * pixels * wide
                weights = item * wide * (2 * narrow + window)
                flops = 2.0 * tiles * block.inner * (outer * narrow + pixels * (window + narrow))
            else:
                held = item * (outer * narrow + pixels * (narrow + wide)) + 4 * pixels * narrow
                weights = item * (2 * wide * narrow + narrow * window)
                flops = 2.0 * tiles * pixels * narrow * (window + 2 * block.inner)
            if held + weights > local:
                continue
            spatial = block.inner if block.kind == "mbconv" else narrow
            all_weights = item * (2 * narrow * block.inner + spatial * window)
            # Weights that do not fit whole are read again for each tile.
            read = all_weights * (1 if held + all_weights <= local else tiles)
            found = Plan(rows, columns, slice_width, held, flops, float(item * tiles * narrow * (outer + pixels) + read))
            if best is None or (found.seconds(chip), found.workspace) < (best.seconds(chip), best.workspace):
                best = found
    if best is None:
        raise ConfigError(f"no tile of a {block.kind} block of {block.channels} channels fits {local} bytes on chip")
    return best


def plans(blocks: Sequence[Block], chip: Chip, local: int, batch: int) -> str:
    """A line a block: its plan, and its time fused and layer by layer."""
    lines = [f"{'block':10} {'tile':>9} {'slice':>6} {'on chip':>9} {'GFLOP':>8} {'MB':>8} {'FLOP/B':>7} {'fused':>9} {'by layers':>9}"]
    for block in blocks:
        best, layers = plan(block, chip, local, batch), block.layers(batch)
        unfused = sum(bar.least_seconds(chip) for bar in layers)
        lines.append(
            f"{block.kind:10} {f'{best.rows}x{best.columns}':>9} {best.slice_width:6d} {best.workspace / 1024:6.0f} KiB {best.flops / 1e9:8.2f} "
            f"{best.bytes / 1e6:8.2f} {best.flops / best.bytes:7.1f} {1e6 * best.seconds(chip):6.0f} us {1e6 * unfused:6.0f} us"
        )
    lines.append(f"{local / 2**20:g} MiB on chip; {chip.name}, batch {batch}; the least that operations and bytes allow, not measured")
    return "\n".join(lines)


# --- command line ---


def _networks(text: str) -> list[tuple[str, float | None]]:
    """[(model, accuracy or None)] of "convnext_tiny:0.821,resnet50". Raises ConfigError for what is no number, and for some without accuracies."""
    found: list[tuple[str, float | None]] = []
    for word in text.split(","):
        name, colon, accuracy = word.partition(":")
        try:
            found.append((name, float(accuracy) if colon else None))
        except ValueError:
            raise ConfigError(f"--model={text}: {accuracy!r} is no accuracy; write convnext_tiny:0.821,resnet50:0.804") from None
    if len(found) > 1 and any(accuracy is None for _, accuracy in found):
        raise ConfigError(f"--model={text}: several models are compared by their accuracies; write convnext_tiny:0.821,resnet50:0.804")
    return found


def _compare(networks: Sequence[tuple[str, float]], layers: Sequence[Sequence[Bar]], chip: Chip, folder: pathlib.Path) -> str:
    """gaps.png and gaps.txt; the text."""
    whole = [merged(name, bars) for (name, _), bars in zip(networks, layers)]
    ideal = [bar.flops / chip.flops for bar in whole]
    segments = [(name, accuracy, least, bar.seconds) for (name, accuracy), least, bar in zip(networks, ideal, whole)]
    draw_gaps(segments, folder / "gaps.png", [(name, bars, chip) for (name, _), bars in zip(networks, layers)])
    lines = [f"{'model':32} {'accuracy':>8} {'at peak':>10} {'predicted':>10} {'efficiency':>10}"]
    for (name, accuracy), least, bar in zip(networks, ideal, whole):
        lines.append(f"{name[-32:]:32} {accuracy:8.3f} {1e3 * least:7.2f} ms {1e3 * bar.seconds:7.2f} ms {least / bar.seconds:10.1%}")
    (folder / "gaps.txt").write_text("\n".join(lines) + "\n")
    return "\n".join(lines)


def _sizes(text: str) -> tuple[int, ...]:
    try:
        height, width, channels = map(int, text.split(","))
    except ValueError:
        raise ConfigError(f"--plan={text}: write height,width,channels, for example --plan=56,56,64") from None
    return height, width, channels


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m jaxvision.train.waterline", description="Waterlines, efficiency gaps, plans of fused blocks.")
    parser.add_argument("--model", help="NAME, or NAME:ACCURACY,NAME:ACCURACY,… to compare several")
    parser.add_argument("--plan", help="HEIGHT,WIDTH,CHANNELS of a block's map")
    parser.add_argument("--topology", default="v5e:1x1", help="v5e:1x1, v4:2x2x1, h100:1, …; one of its chips is compiled for")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--depth", type=int, default=2, help="parts of a layer's path that make a bar")
    parser.add_argument("--local", type=float, default=16, help="MiB on chip that a plan may use")
    parser.add_argument("--out", default=".", help="folder for waterline.png and waterline.txt")
    given = parser.parse_args(arguments)
    try:
        _run(given)
    except UserError as error:
        raise SystemExit(str(error)) from None


def _run(given: argparse.Namespace) -> None:
    if (given.model is None) == (given.plan is None):
        raise ConfigError("give either --model=NAME or --plan=HEIGHT,WIDTH,CHANNELS")
    if given.plan:
        height, width, channels = _sizes(given.plan)
        blocks = [Block(kind, height, width, channels, 4, *sizes) for kind, sizes in KINDS.items()]
        print(plans(blocks, chip_of(given.topology), int(given.local * 2**20), given.batch))
        return
    folder, networks, layers = pathlib.Path(given.out), _networks(given.model), []
    folder.mkdir(parents=True, exist_ok=True)
    for name, _ in networks:
        found, chip = of_model(name, given.topology, given.batch, depth=given.depth)
        layers.append(found)
        text, suffix = table(found, chip), f"_{name}" if len(networks) > 1 else ""
        (folder / f"waterline{suffix}.txt").write_text(text + "\n")
        draw(found, chip, folder / f"waterline{suffix}.png")
        print(text)
    if len(networks) > 1:
        print(_compare(networks, layers, chip, folder))


if __name__ == "__main__":
    main()
