"""Compare the stream with other loaders of the same shards, and measure how long a seek in 10 million samples takes.

    python -m benchmarks.stream                 # 768 images of 512 x 512 as webp and as jpg, 5 rounds
    python -m benchmarks.stream --quick         # a smoke test that takes a minute

Run it from the root of a checkout, in its environment. `e4t prepare` creates the shards from synthetic photographs in a
temporary folder. In every round each loader runs once in a process of its own, in reverse order in every second round,
so that a machine that slows down affects all loaders alike. Ratios are computed round by round. All loaders return the
same: batches of 32 images as uint8 and their captions. Only the sequential read neither shuffles nor uses workers; it
shows the cost of decoding.
"""

import argparse
import os
import statistics
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.data_prep.photographs import Kind, write_images
from benchmarks.harness import measure_in_subprocess, write_report
from benchmarks.stream_loaders import BATCH
from benchmarks.stream_seek import synthetic_manifest
from data_prep.config import PrepareConfig, SplitFractions
from data_prep.prepare.executors import LocalExecutor
from data_prep.prepare.pipeline import prepare

SIDE, SHARD_SAMPLES = 512, 32
LOADERS = [("sequential", 0), *((name, n) for n in (1, 2) for name in ("e4t", "webdataset", "datasets"))]
Figures = dict[str, float]
console = Console(width=120)


def prepare_datasets(folder: Path, num_images: int, formats: list[str]) -> dict[str, Path]:
    """Prepare one dataset per image format."""
    source = write_images(folder / "images", Kind(size=(SIDE, SIDE), suffix="png", options={}), num_images)
    everything = SplitFractions(train=1.0, val=0.0, test=0.0)
    for image_format in formats:
        prepare(
            PrepareConfig(
                source=str(source),
                output=str(folder / image_format),
                domain="person",
                resolution=SIDE,
                format=image_format,
                shard_samples=SHARD_SAMPLES,
                splits=everything,
            ),
            LocalExecutor(),
        )
    return {image_format: folder / image_format for image_format in formats}


def run_rounds(root: Path, batches: int, rounds: int) -> dict[str, list[Figures]]:
    """Run every loader once per round."""
    results: dict[str, list[Figures]] = {title(*loader): [] for loader in LOADERS}
    for number in range(rounds):
        for name, workers in LOADERS if number % 2 == 0 else LOADERS[::-1]:
            command = ("benchmarks.stream_loaders", name, str(root), str(batches), "--workers", str(workers))
            results[title(name, workers)].append(measure_in_subprocess(*command))
    return results


def title(name: str, workers: int) -> str:
    """Return the name of a loader with its number of workers."""
    return f"{name}, {workers} worker{'s' * (workers > 1)}" if workers else name


def results_table(image_format: str, results: dict[str, list[Figures]], num_images: int) -> Table:
    """Tabulate median, minimum and maximum over the rounds."""
    table = Table(
        title=f"{image_format}: {num_images} images of {SIDE} x {SIDE}, {os.cpu_count()} cores",
        caption="median, and minimum to maximum; x: relative to the sequential read of the round",
    )
    for column in ("", "samples/s", "x", "CPU ms per sample", "x", "first batch s"):
        table.add_column(column, justify="right" if column else "left")
    base = results["sequential"]
    for name, figures in results.items():
        pairs = list(zip(figures, base, strict=True))
        table.add_row(
            name,
            format_spread([one["rate"] for one in figures], 0),
            format_spread([one["rate"] / other["rate"] for one, other in pairs], 2),
            format_spread([one["cpu"] for one in figures], 2),
            format_spread([one["cpu"] / other["cpu"] for one, other in pairs], 2),
            format_spread([one["start"] for one in figures], 2),
        )
    return table


def format_spread(values: list[float], digits: int) -> str:
    """Format as median (minimum-maximum)."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", nargs="+", choices=("webp", "jpg", "png"), default=["webp", "jpg"])
    parser.add_argument("--images", type=int, default=768)
    parser.add_argument("--batches", type=int, default=24, help=f"batches of {BATCH} images to time")
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
        datasets = prepare_datasets(Path(work), arguments.images, arguments.formats)
        for image_format, root in datasets.items():
            results = run_rounds(root, arguments.batches, arguments.rounds)
            console.print(results_table(image_format, results, arguments.images))
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
