"""Compare the stream with other loaders of the same shards, and measure how long a seek in 10 million samples takes.

    python -m benchmarks.stream                           # 768 images of 512 x 512 as webp and as jpg, 5 rounds
    python -m benchmarks.stream --side 32 --formats png   # tiny images
    python -m benchmarks.stream --quick                   # a smoke test that takes a minute

Run it from the root of a checkout, in its environment. `e4t prepare` creates the shards from synthetic photographs in a
temporary folder. In every round each loader runs once in a process of its own, in reverse order in every second round,
so that a machine that slows down affects all loaders alike. Ratios are computed round by round. All loaders return the
same: batches of images as uint8 and their captions. Only the sequential read neither shuffles nor uses workers; it
shows the cost of decoding. litData is compared if it is installed.
"""

import argparse
import importlib.util
import os
import statistics
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.data_prep.photographs import Kind, write_images
from benchmarks.harness import measure_in_subprocess, write_report
from benchmarks.stream_loaders import convert_to_litdata
from benchmarks.stream_seek import synthetic_manifest
from data_prep.config import PrepareConfig, SplitFractions
from data_prep.prepare.executors import LocalExecutor
from data_prep.prepare.pipeline import prepare

SHARD_SAMPLES = 32
HAS_LITDATA = importlib.util.find_spec("litdata") is not None
NAMES = [
    "sequential",
    "e4t",
    "DataLoader",
    "DataLoader, forkserver",
    "webdataset",
    "datasets",
    *["litdata"] * HAS_LITDATA,
]
Figures = dict[str, float]
console = Console(width=180)


def prepare_datasets(folder: Path, num_images: int, formats: list[str], side: int = 512) -> dict[str, Path]:
    """Prepare one dataset per image format."""
    source = write_images(folder / "images", Kind(size=(side, side), suffix="png", options={}), num_images)
    everything = SplitFractions(train=1.0, val=0.0, test=0.0)
    for image_format in formats:
        prepare(
            PrepareConfig(
                source=str(source),
                output=str(folder / image_format),
                domain="person",
                resolution=side,
                format=image_format,
                shard_samples=SHARD_SAMPLES,
                splits=everything,
            ),
            LocalExecutor(),
        )
    return {image_format: folder / image_format for image_format in formats}


def run_rounds(root: Path, arguments: argparse.Namespace) -> dict[str, list[Figures]]:
    """Run every loader once per round."""
    loaders = [("sequential", 0)] if "sequential" in arguments.loaders else []
    loaders += [(name, workers) for workers in arguments.workers for name in arguments.loaders if name != "sequential"]
    results: dict[str, list[Figures]] = {title(*loader): [] for loader in loaders}
    options = "--batch-size", str(arguments.batch_size)
    for number in range(arguments.rounds):
        for name, workers in loaders if number % 2 == 0 else loaders[::-1]:
            command = ("benchmarks.stream_loaders", name, str(root), str(arguments.batches), "--workers", str(workers))
            results[title(name, workers)].append(measure_in_subprocess(*command, *options))
    return results


def title(name: str, workers: int) -> str:
    """Return the name of a loader with its number of workers."""
    return f"{name}, {workers} worker{'s' * (workers > 1)}" if workers else name


def results_table(heading: str, results: dict[str, list[Figures]]) -> Table:
    """Tabulate median, minimum and maximum over the rounds."""
    table = Table(title=heading, caption="median, and minimum to maximum; x: relative to the first row, round by round")
    for column in ("", "samples/s", "x", "CPU ms per sample", "x", "first batch s", "x", "MB", "x"):
        table.add_column(column, justify="right" if column else "left")
    base = next(iter(results.values()))
    for name, figures in results.items():
        cells = [name]
        for figure, digits in (("rate", 0), ("cpu", 2), ("start", 2), ("memory", 0)):
            cells.append(format_spread([one[figure] for one in figures], digits))
            ratios = [one[figure] / other[figure] for one, other in zip(figures, base, strict=True)]
            cells.append(format_spread(ratios, 2))
        table.add_row(*cells)
    return table


def format_spread(values: list[float], digits: int) -> str:
    """Format as median (minimum-maximum)."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", nargs="+", choices=("webp", "jpg", "png"), default=["webp", "jpg"])
    parser.add_argument("--images", type=int, default=768)
    parser.add_argument("--batches", type=int, default=24, help="batches to time")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--side", type=int, default=512, help="width and height of the images in pixels")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--loaders", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="256 jpg, 8 batches, 1 round")
    parser.add_argument("--folder", type=Path, help="parent of the temporary folder for the shards")
    parser.add_argument("--json", type=Path, help="file for all measurements; printed if omitted")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.formats, arguments.images, arguments.batches, arguments.rounds = ["jpg"], 256, 8, 1
    return arguments


def main() -> None:
    """Prepare the datasets, run all loaders, measure seeks, and report."""
    arguments = parse_arguments()
    report: dict[str, object] = {}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as work:
        datasets = prepare_datasets(Path(work), arguments.images, arguments.formats, arguments.side)
        for image_format, root in datasets.items():
            if "litdata" in arguments.loaders:
                convert_to_litdata(root)
            results = run_rounds(root, arguments)
            side, cores = arguments.side, os.cpu_count()
            heading = f"{image_format}: {arguments.images} images of {side} x {side}, {cores} cores"
            console.print(results_table(heading, results))
            report[image_format] = results
        synthetic_manifest(Path(work) / "large")
        seeks = [
            measure_in_subprocess("benchmarks.stream_seek", f"{work}/large", "--locate-only")
            for _ in range(arguments.rounds)
        ]
        firsts = [
            measure_in_subprocess("benchmarks.stream_seek", str(root))
            for root in datasets.values()
            for _ in range(arguments.rounds)
        ]
    console.print("seconds to locate a sample among 10 million:", format_spread([s["seconds"] for s in seeks], 2))
    console.print("  and MB of memory:", format_spread([s["megabytes"] for s in seeks], 1))
    console.print(
        "seconds from creating a stream to a batch in the middle of a dataset:",
        format_spread([f["seconds"] for f in firsts], 2),
    )
    report |= {"seek": seeks, "first_batch": firsts}
    write_report({name: str(value) for name, value in vars(arguments).items()}, report, arguments.json)


if __name__ == "__main__":
    main()
