"""Times the stream beside other loaders of the same shards, and how long it takes to find a place among 10 million.

    python -m benchmarks.stream                 # 768 pictures of 512 x 512 as webp and as jpg, 5 rounds
    python -m benchmarks.stream --quick         # a smoke run of a minute

From the root of a checkout, in its environment. `e4t prepare` makes the shards, of drawn photographs, in a temporary
folder. In every round each loader runs once, in a process of its own, backwards in every second round: a machine that
slows down does so for all. Ratios are taken round by round. All deliver the same: batches of 32 as uint8 and their
captions; only the sequential read does not shuffle, and has no workers: it is what decoding costs.
"""

import argparse
import os
import statistics
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.data_prep.pictures import Kind, draw_tree
from benchmarks.harness import measure_in_subprocess, write_report
from benchmarks.stream_loaders import BATCH
from benchmarks.stream_seek import synthetic_manifest
from data_prep.config import PrepareConfig, SplitFractions
from data_prep.prepare.executors import LocalExecutor
from data_prep.prepare.pipeline import prepare

SIDE, SHARD_SAMPLES = 512, 32
CONTENDERS = [("sequential", 0), *((name, n) for n in (1, 2) for name in ("e4t", "webdataset", "datasets"))]
Figures = dict[str, float]
console = Console(width=120)


def made(folder: Path, pictures: int, codecs: list[str]) -> dict[str, Path]:
    """A set a codec."""
    source = draw_tree(folder / "pictures", Kind(size=(SIDE, SIDE), suffix="png", options={}), pictures)
    everything = SplitFractions(train=1.0, val=0.0, test=0.0)
    for codec in codecs:
        prepare(
            PrepareConfig(
                source=str(source),
                output=str(folder / codec),
                domain="person",
                resolution=SIDE,
                format=codec,
                shard_samples=SHARD_SAMPLES,
                splits=everything,
            ),
            LocalExecutor(),
        )
    return {codec: folder / codec for codec in codecs}


def race(root: Path, batches: int, rounds: int) -> dict[str, list[Figures]]:
    """Every loader once a round."""
    found: dict[str, list[Figures]] = {title(*contender): [] for contender in CONTENDERS}
    for number in range(rounds):
        for name, workers in CONTENDERS if number % 2 == 0 else CONTENDERS[::-1]:
            words = ("benchmarks.stream_loaders", name, str(root), str(batches), "--workers", str(workers))
            found[title(name, workers)].append(measure_in_subprocess(*words))
    return found


def title(name: str, workers: int) -> str:
    """Of a contender."""
    return f"{name}, {workers} worker{'s' * (workers > 1)}" if workers else name


def shown(codec: str, found: dict[str, list[Figures]], pictures: int) -> Table:
    """Median, and minimum to maximum."""
    table = Table(
        title=f"{codec}: {pictures} pictures of {SIDE} x {SIDE}, {os.cpu_count()} cores",
        caption="median, and minimum to maximum; x: times the sequential read of the same round",
    )
    for column in ("", "samples/s", "x", "CPU ms a sample", "x", "first batch s"):
        table.add_column(column, justify="right" if column else "left")
    base = found["sequential"]
    for name, figures in found.items():
        pairs = list(zip(figures, base, strict=True))
        table.add_row(
            name,
            spread([one["rate"] for one in figures], 0),
            spread([one["rate"] / other["rate"] for one, other in pairs], 2),
            spread([one["cpu"] for one in figures], 2),
            spread([one["cpu"] / other["cpu"] for one, other in pairs], 2),
            spread([one["start"] for one in figures], 2),
        )
    return table


def spread(values: list[float], digits: int) -> str:
    """Median (minimum to maximum)."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codecs", nargs="+", choices=("webp", "jpg", "png"), default=["webp", "jpg"])
    parser.add_argument("--pictures", type=int, default=768)
    parser.add_argument("--batches", type=int, default=24, help=f"of {BATCH}, timed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="256 jpg, 8 batches, 1 round")
    parser.add_argument("--folder", type=Path, help="for the shards; a temporary one otherwise")
    parser.add_argument("--json", type=Path, help="file for all figures; without one they are printed")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.codecs, arguments.pictures, arguments.batches, arguments.rounds = ["jpg"], 256, 8, 1
    return arguments


def main() -> None:
    """Make, race, seek, report."""
    arguments = parsed()
    report: dict[str, object] = {}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as work:
        sets = made(Path(work), arguments.pictures, arguments.codecs)
        for codec, root in sets.items():
            found = race(root, arguments.batches, arguments.rounds)
            console.print(shown(codec, found, arguments.pictures))
            report[codec] = found
        synthetic_manifest(Path(work) / "large")
        seeks = [
            measure_in_subprocess("benchmarks.stream_seek", f"{work}/large", "--place") for _ in range(arguments.rounds)
        ]
        firsts = [
            measure_in_subprocess("benchmarks.stream_seek", str(root))
            for root in sets.values()
            for _ in range(arguments.rounds)
        ]
    console.print("seconds to find a place among 10 million samples:", spread([s["seconds"] for s in seeks], 2))
    console.print("  and MB of memory for it:", spread([s["megabytes"] for s in seeks], 1))
    console.print("seconds from nothing to a batch in the middle of a set:", spread([f["seconds"] for f in firsts], 2))
    report |= {"seek": seeks, "first_batch": firsts}
    write_report({name: str(value) for name, value in vars(arguments).items()}, report, arguments.json)


if __name__ == "__main__":
    main()
