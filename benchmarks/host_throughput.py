"""Throughput of the host: images/s from a folder of JPEGs to training batches, and what each stage costs.

    python benchmarks/host_throughput.py --count=64 --width=500 --height=375 --size=224 --workers=2

The JPEGs are cut from scikit-learn's two photographs. Stages are timed on one thread, full decode and DCT-scaled decode ("draft") taking turns in one
run, medians of several rounds of processor time (the files are in the cache, so reading waits for nothing); then the whole stream is timed, by the
clock, with threads and with worker processes. Compare figures of one run with one another.
"""

import argparse
import io
import pathlib
import statistics
import tempfile
import time

import numpy as np
from PIL import Image

import jaxvision.data as data
from jaxvision.data.decode import RANDOMS, Decode, decode, decode_coarsely, random_box
from jaxvision.data.order import uniforms
from jaxvision.data.workers import processors

STAGES = ("read", "decode", "crop/resize", "batch")


def make_folder(root: pathlib.Path, count: int, height: int, width: int) -> None:
    """`count` JPEGs in two class folders."""
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    rng = np.random.RandomState(0)
    for i in range(count):
        photograph = photographs[i % 2]
        share = rng.uniform(0.7, 1.0)
        h = min(photograph.height, photograph.width * height / width) * share
        w = h * width / height
        top, left = rng.uniform(0, photograph.height - h), rng.uniform(0, photograph.width - w)
        folder = root / f"class{i % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        photograph.resize((width, height), Image.Resampling.BICUBIC, box=(left, top, left + w, top + h)).save(folder / f"{i}.jpg", quality=90)


def time_stages(source: data.Source, settings: Decode, draft: bool, round_number: int) -> dict[str, float]:
    """Processor seconds an image of each stage, over the whole source. Crop and resize are what `decode` takes beyond the decoder alone."""
    seconds = dict.fromkeys(STAGES, 0.0)
    pictures, clock = [], time.thread_time  # of this thread alone, so that a busy machine does not count
    for i in range(len(source)):
        randoms = uniforms(round_number, i, RANDOMS)
        start = clock()
        record = source.record(i)
        read = clock()
        picture = Image.open(io.BytesIO(record["image"]))
        if draft:
            decode_coarsely(picture, random_box(picture.height, picture.width, settings.scale, settings.ratio, randoms), settings.image_size)
        picture.load()
        decoded = clock()
        pictures.append(decode(record, settings, source.name_of(i), randoms, draft=draft)["image"])
        done = clock()
        seconds["read"] += read - start
        seconds["decode"] += decoded - read
        seconds["crop/resize"] += (done - decoded) - (decoded - read)
    start = clock()
    np.stack(pictures)
    seconds["batch"] = clock() - start
    return {stage: value / len(source) for stage, value in seconds.items()}


def time_stream(source: data.Source, settings: Decode, workers: int, batch_size: int, batches: int) -> tuple[float, float]:
    """(images/s after the first batch, seconds to the first batch)."""
    stream = data.TrainStream(source, batch_size=batch_size, image=settings, seed=0, workers=workers)
    begin = time.perf_counter()
    next(stream)
    first = time.perf_counter()
    for _ in range(2 * max(1, workers)):  # what had been read ahead
        next(stream)
    start = time.perf_counter()
    for _ in range(batches):
        next(stream)
    rate = batches * batch_size / (time.perf_counter() - start)
    stream.close()
    return rate, first - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=64, help="JPEGs in the folder")
    parser.add_argument("--width", type=int, default=500)
    parser.add_argument("--height", type=int, default=375)
    parser.add_argument("--size", type=int, default=224, help="of the result")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--workers", type=int, default=max(1, processors() - 1), help="worker processes of the last line")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_folder(pathlib.Path(folder), options.count, options.height, options.width)
        source = data.open_source({"source": "folder", "path": folder}, "all", seed=0)
        settings = Decode((options.size, options.size))
        bytes_each = sum(len(source.record(i)["image"]) for i in range(len(source))) / len(source)
        print(f"{len(source)} JPEGs of {options.width}x{options.height}, {bytes_each / 1024:.0f} KiB each -> {options.size}x{options.size}; "
              f"{processors()} processors")
        times: dict[bool, list[dict[str, float]]] = {False: [], True: []}
        for number in range(options.rounds):
            for draft in times:
                times[draft].append(time_stages(source, settings, draft, number))
        print(f"{'processor ms an image':28}" + "".join(f"{stage:>13}" for stage in STAGES) + f"{'images/s':>13}")
        totals = {}
        for draft, rounds in times.items():
            cost = {stage: statistics.median(one[stage] for one in rounds) for stage in STAGES}
            totals[draft] = sum(cost.values())
            name = "pillow-draft" if draft else "pillow"
            print(f"{name:28}" + "".join(f"{1e3 * cost[stage]:13.2f}" for stage in STAGES) + f"{1 / totals[draft]:13.0f}")
        print(f"draft is {totals[False] / totals[True]:.2f} times as fast")
        for workers in (0, options.workers):
            rate, first = time_stream(source, settings, workers, options.batch_size, options.batches)
            who = f"{workers} worker processes" if workers else f"threads ({min(processors(), 16)})"
            print(f"stream, {who:20}{rate:13.0f} images/s, first batch after {first:.1f} s")


if __name__ == "__main__":
    main()
