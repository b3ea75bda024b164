"""The command line: `python -m jaxvision.main --config=configs/vit.py:digits --workdir=runs/digits [--mode=…] [--config.optim.lr=…]`."""

import argparse
import glob
import os
import pathlib
import statistics
import sys
from collections.abc import Callable, Sequence

from jaxvision.errors import ConfigError, UserError
from jaxvision.host_memory import keep_freed_memory

EPILOG = """modes:
  train    train by the config; the same command again goes on from the last checkpoint
  search   train children as config.search says, and go on with the same command (history.jsonl, found.json)
  eval     print the metrics of a checkpoint on the test split; of a restoration with --input: on whole pictures, each (pictures.csv)
  predict  write predictions for --input (class probabilities as CSV, pictures as PNG, boxes as JSON)
  export   write the network as a StableHLO program with its weights and class names, load it back and compare
  preflight compile every program of a run for --topology, and say whether it fits, how long it takes and where (preflight.json)
  bench    time the ops of jaxvision/kernels on this device, or with --topology predict them for another
  analyse  measure a classifier: sharpness, active hidden units, accuracy under corruptions (analysis.json, analysis.png)

config keys are set by --config.KEY=VALUE, for example --config.optim.lr=0.001 --config.epochs=10; tuples as Python writes them.
A config is a file with get_config(variant): --config=configs/vit.py:digits; or the config.json of an earlier run.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jaxvision.main",
        description="Trains, evaluates and applies the models and methods of jaxvision.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--config", metavar="FILE.py[:VARIANT]", help="what to run; for eval and predict by default the one that the run wrote")
    add("--workdir", metavar="FOLDER", help="where config, metrics, pictures and checkpoints go; a run is resumed by naming it again")
    add("--mode", default="train", metavar="MODE", help="one of the modes below (default: train)")
    add("--checkpoint", default="last", metavar="last|best|STEP", help="which checkpoint eval and predict take (default: last)")
    add("--stage", metavar="NAME", help="which stage of a run of several eval and predict take (default: the last)")
    add("--input", metavar="FILE|FOLDER", help="what predict reads; pictures that eval measures a restoration by")
    add("--output", metavar="FOLDER", help="where predict and export write (default: WORKDIR/predictions, WORKDIR/export)")
    add("--seeds", metavar="0,1,2", help="train once for each seed, in WORKDIR/seed_N, and print mean and deviation")
    add("--topology", metavar="CHIP:SHAPE", help="preflight and bench: compile for v5e:16x16, v4:4x4x4, h100:8, … which need not be there")
    add("--profile", metavar="STEP:COUNT", help="write a profiler trace of COUNT steps from STEP to WORKDIR/profile")
    add("--distributed", action="store_true", help="several processes found by the environment (TPU pods, SLURM, GKE)")
    add("--coordinator", metavar="HOST:PORT", help="several processes: address of process 0, with the two options below")
    add("--process_index", type=int, metavar="I", help="number of this process")
    add("--process_count", type=int, metavar="N", help="number of all processes")
    return parser


def choose_platform(environment: dict[str, str]) -> None:
    """Asks for the CPU when the host has no accelerator's device files and nothing was asked for: probing absent TPUs is slow and loud."""
    if "JAX_PLATFORMS" in environment or "JAX_PLATFORM_NAME" in environment:
        return
    if not any(glob.glob(pattern) for pattern in ("/dev/accel*", "/dev/vfio/[0-9]*", "/dev/nvidia[0-9]*", "/dev/kfd")):
        environment["JAX_PLATFORMS"] = "cpu"


def _connect(args: argparse.Namespace) -> None:
    own = (args.coordinator, args.process_index, args.process_count)
    if args.distributed and any(value is not None for value in own):
        raise ConfigError("--distributed finds the processes by the environment: give it alone, or --coordinator, --process_index, --process_count")
    if any(value is None for value in own) and any(value is not None for value in own):
        raise ConfigError("--coordinator, --process_index and --process_count belong together: give all three")
    if args.distributed or args.coordinator:
        import jax

        jax.distributed.initialize(*((args.coordinator, args.process_count, args.process_index) if args.coordinator else ()))


def _profile(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, colon, count = text.partition(":")
    if not (colon and first.isdigit() and count.isdigit() and int(count) > 0):
        raise ConfigError(f"--profile={text}: write STEP:COUNT, for example --profile=100:5")
    return int(first), int(count)


def _checkpoint(text: str) -> str | int:
    if text in ("last", "best"):
        return text
    if not text.isdigit():
        raise ConfigError(f"--checkpoint={text}: takes last, best or the number of a step")
    return int(text)


def _config(args: argparse.Namespace, overrides: Sequence[str], required: bool):
    from jaxvision.train.config import load_config, parse_overrides, read_config

    if args.config:
        return load_config(args.config, overrides)
    if required:
        raise ConfigError("--config is missing; for example --config=configs/vit.py:digits")
    path = pathlib.Path(args.workdir) / "config.json"
    return parse_overrides(read_config(path), overrides) if overrides else None


def _train(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    from jaxvision.train.config import with_changes
    from jaxvision.train.loop import summary
    from jaxvision.train.stages import fit

    config, profile = _config(args, overrides, required=True), _profile(args.profile)
    if args.seeds is None:
        print(summary(fit(config, args.workdir, profile=profile)))
        return
    words = args.seeds.split(",")
    if not all(word.strip().isdigit() for word in words):
        raise ConfigError(f"--seeds={args.seeds}: write numbers with commas, for example --seeds=0,1,2")
    runs = []
    for seed in map(int, words):
        runs.append(fit(with_changes(config, {"seed": seed}), pathlib.Path(args.workdir) / f"seed_{seed}", profile=profile))
        print(f"seed {seed}: {summary(runs[-1])}")
    for name in runs[0]:
        values = [run[name] for run in runs if name in run]
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        print(f"{name}: mean {statistics.fmean(values):.4g}, deviation {deviation:.2g}, worst {min(values):.4g}, best {max(values):.4g}")


def _search(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    from jaxvision.search import search

    search(_config(args, overrides, required=True), args.workdir)


def _eval(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    from jaxvision.train.modes import evaluate, measure

    if args.input is not None:
        config, checkpoint = _config(args, overrides, required=False), _checkpoint(args.checkpoint)
        measure(config, args.workdir, args.input, output=args.output, checkpoint=checkpoint, stage=args.stage)
        return
    evaluate(_config(args, overrides, required=False), args.workdir, checkpoint=_checkpoint(args.checkpoint), stage=args.stage)


def _predict(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    from jaxvision.train.modes import predict

    if args.input is None:
        raise ConfigError("--mode=predict needs --input=FILE or --input=FOLDER")
    config, checkpoint = _config(args, overrides, required=False), _checkpoint(args.checkpoint)
    predict(config, args.workdir, args.input, output=args.output, checkpoint=checkpoint, stage=args.stage)


def _export(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    from jaxvision.train.export_mode import export

    if args.config or overrides:
        raise ConfigError("--mode=export takes the run as it is in --workdir: leave --config out")
    export(args.workdir, output=args.output, checkpoint=_checkpoint(args.checkpoint), stage=args.stage)


def _analyse(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    from jaxvision.train.analysis import analyse

    if args.config or overrides:
        raise ConfigError("--mode=analyse takes the run as it is in --workdir: leave --config out")
    analyse(args.workdir, checkpoint=_checkpoint(args.checkpoint), stage=args.stage)


def _preflight(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    from jaxvision.train.preflight import preflight

    if args.topology is None:
        raise ConfigError("--mode=preflight needs --topology, for example --topology=v5e:16x16")
    config = _config(args, overrides, required=True)
    if config.search.name:
        from jaxvision.search import make_search

        config = make_search(config)([])
        print("a search: its first child is compiled")
    preflight(config, args.topology, args.workdir)


def _bench(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    from jaxvision.train.bench import bench

    bench(_config(args, overrides, required=True), topology=args.topology)


MODES: dict[str, Callable[[argparse.Namespace, Sequence[str]], None]] = {
    "train": _train,
    "search": _search,
    "eval": _eval,
    "predict": _predict,
    "export": _export,
    "preflight": _preflight,
    "bench": _bench,
    "analyse": _analyse,
}
WITHOUT_WORKDIR = ("preflight", "bench")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0 done, 2 a user's error (one line on stderr), 3 does not fit, 130 stopped by a signal."""
    args, overrides = _parser().parse_known_args(argv)
    if args.topology is not None:  # what is compiled for is not this host's own chip, which stays free for others
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    choose_platform(os.environ)
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        keep_freed_memory()
    try:
        if args.mode not in MODES:
            from jaxvision.errors import nearest

            raise ConfigError(f"--mode={args.mode} is unknown; {nearest(args.mode, MODES)}")
        if args.workdir is None and args.mode not in WITHOUT_WORKDIR:
            raise ConfigError("--workdir is missing; name a folder for this run, for example --workdir=runs/digits")
        _connect(args)
        MODES[args.mode](args, overrides)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except Exception as error:
        from jaxvision.train.loop import Stopped

        if isinstance(error, Stopped):
            print(str(error), file=sys.stderr)
            return 130
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
