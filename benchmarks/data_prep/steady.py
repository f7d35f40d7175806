"""Compare the CPU time per image of `e4t prepare` with img2dataset and the floor, without the startup of processes.

    python -m benchmarks.data_prep.steady --kind web --images 64 --rounds 7

Each contender is one process, see baselines.py, that runs the whole conversion in every round: listing, reading,
decoding, resizing, encoding, writing shards. The order is reversed in every second round. A first round, which imports
packages and fills caches, is not counted. Unlike benchmarks.data_prep.run, this gives usable ratios on a busy machine,
because the difference of two startups of several seconds does not enter.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.data_prep.baselines import QUALITY
from benchmarks.data_prep.photographs import KINDS
from benchmarks.data_prep.report import format_one_line, ratios
from benchmarks.data_prep.run import BASELINES, cached_images, install_img2dataset
from benchmarks.harness import write_report

NAMES = ("e4t", "img2dataset-in-process", "floor")


def start(name: str, python: str, source: Path, output: Path, quality: int) -> "subprocess.Popen[str]":
    """Start the process of a contender."""
    module = ["-m", "benchmarks.data_prep.baselines"] if python == sys.executable else [str(BASELINES)]
    command = [python, *module, name, str(source), str(output / name), "--repeat", "--shard-samples=1000"]
    return subprocess.Popen(  # noqa: S603 - fixed command
        [*command, f"--quality={quality}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def run_once(process: "subprocess.Popen[str]") -> float:
    """Let a contender convert all images; return its CPU seconds. Raises RuntimeError if it has failed."""
    assert process.stdin and process.stdout  # noqa: S101, PT018 - both are pipes
    process.stdin.write("\n")
    process.stdin.flush()
    for line in process.stdout:
        if line.startswith("cpu "):
            return float(line.split()[1])
    raise RuntimeError(f"{process.args!r} has failed")


def measure(processes: dict[str, "subprocess.Popen[str]"], rounds: int) -> dict[str, list[float]]:
    """Return the CPU seconds of each contender by round."""
    seconds: dict[str, list[float]] = {name: [] for name in processes}
    for number in range(rounds + 1):
        for name in list(processes) if number % 2 else list(processes)[::-1]:
            spent = run_once(processes[name])
            if number > 0:
                seconds[name].append(spent)
    return seconds


def row(kind: str, milliseconds: dict[str, list[float]]) -> Sequence[str]:
    """Return the cells of the table in docs/data.md."""
    e4t, baseline, floor = (milliseconds[name] for name in NAMES)
    cells = [format_one_line(values, 1) for values in (e4t, baseline, floor)]
    return [kind, *cells, format_one_line(ratios(baseline, e4t), 2), format_one_line(ratios(e4t, floor), 2)]


def main() -> None:
    """Measure one kind of images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=KINDS, default="web")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quality", type=int, default=QUALITY)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "e4t-benchmark")
    parser.add_argument("--json", type=Path, help="file for all measurements; printed if omitted")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    theirs = install_img2dataset(arguments.folder / "img2dataset")
    source = cached_images(arguments.folder, arguments.kind, arguments.images)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as work:
        processes = {
            name: start(
                name,
                theirs if name.startswith("img2dataset") else sys.executable,
                source,
                Path(work),
                arguments.quality,
            )
            for name in NAMES
        }
        try:
            seconds = measure(processes, arguments.rounds)
        finally:
            for process in processes.values():
                process.kill()
                process.wait()
    milliseconds = {name: [1000 * one / arguments.images for one in each] for name, each in seconds.items()}
    print(f"| {' | '.join(row(arguments.kind, milliseconds))} |")
    medians = {name: statistics.median(values) for name, values in milliseconds.items()}
    settings = {name: str(value) for name, value in vars(arguments).items()}
    write_report(settings, {"cpu_ms": milliseconds, "medians": medians}, arguments.json)


if __name__ == "__main__":
    main()
