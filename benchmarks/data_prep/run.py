"""Times `e4t prepare` beside its rivals on drawn photographs, in one run.

    python -m benchmarks.data_prep.run                  # ffhq: 1024 x 1024 PNG to 512 x 512 JPEG, 5 rounds
    python -m benchmarks.data_prep.run --kind camera    # or web, celeba: see benchmarks/data_prep/pictures.py
    python -m benchmarks.data_prep.run --quick          # a smoke run of a minute

From the root of a checkout, in its environment; img2dataset gets one of its own (``--img2dataset-python`` names one
that is there). In every round each contender makes the set once and a set of 8 pictures once; the difference is what
the pictures cost, the small set what starting costs. Rounds go through the contenders forwards and backwards in turn,
so that a machine that slows down does so for all. CPU is of the whole process tree, the peak memory of its largest
process, both from wait4. A contender that does not make all pictures is left out, with its last words.

All make 512 x 512 JPEG at quality 95, but not the same: the loop and img2dataset store colours at half the resolution
(4:2:0, their default), e4t at full; img2dataset resizes by area, the others with LANCZOS. The column kB shows it.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.data_prep.pictures import KINDS, draw_tree
from benchmarks.data_prep.rivals import QUALITY, RESOLUTION, SHARD_SAMPLES

E4T = (
    "prepare --data.source {source} --data.output {output} --data.concept face --data.resolution {resolution} "
    "--data.codec jpg --data.quality {quality} --data.shard_samples {shard_samples} --workers {processes}"
)
IMG2DATASET = "img2dataset==1.47.0"
SMALL = 8
RIVALS = Path(__file__).with_name("rivals.py")
console = Console(width=120)


@dataclass(frozen=True)
class Run:
    """One process from start to end."""

    seconds: float
    cpu: float
    """Seconds of the process and all it waited for."""
    peak: int
    """Bytes of the largest process."""


@dataclass
class Contender:
    """A command, and what was measured of it."""

    name: str
    command: list[str]
    """With {source} and {output}."""
    runs: list[tuple[Run, Run]] = field(default_factory=list)
    """A round each: the small set, the whole one."""
    stored: float = 0.0
    """Bytes a picture."""
    failure: str = ""
    """Why there is nothing to show."""


@dataclass(frozen=True)
class Figures:
    """Of a contender, a round each."""

    rate: list[float]
    """Pictures a second, without the start."""
    cpu: list[float]
    """CPU milliseconds a picture, without the start."""
    start: list[float]
    """Seconds that the small set takes."""
    peak: list[float]
    """Bytes."""


def contenders(processes: Sequence[int], rival_python: str | None) -> list[Contender]:
    """What is compared."""
    settings = {"resolution": RESOLUTION, "quality": QUALITY, "shard_samples": SHARD_SAMPLES}
    found = [Contender("Pillow loop", [sys.executable, str(RIVALS), "loop", "{source}", "{output}"])]
    if rival_python:
        found.append(Contender("img2dataset Resizer", [rival_python, str(RIVALS), "resizer", "{source}", "{output}"]))
    for count in processes:
        of = f", {count} processes" if count > 1 else ""
        words = [word.format(source="{source}", output="{output}", processes=count, **settings) for word in E4T.split()]
        found.append(Contender(f"e4t prepare{of}", [sys.executable, "-m", "e4t", *words]))
        if rival_python:
            command = [rival_python, str(RIVALS), "img2dataset", "{source}", "{output}", "--processes", str(count)]
            found.append(Contender(f"img2dataset{of}", command))
    return found


def race(found: list[Contender], sets: Sequence[tuple[Path, int]], rounds: int, work: Path) -> None:
    """Every contender once a round, on the small set and on the whole one."""
    # Round 0 brings programs and pictures into memory, and is not counted.
    for number in range(rounds + 1):
        for contender in found if number % 2 == 0 else found[::-1]:
            if contender.failure:
                continue
            console.print(f"round {number} of {rounds}: {contender.name}", style="dim")
            try:
                small, whole = (run(contender, source, count, work) for source, count in sets)
            except RuntimeError as error:
                contender.failure = str(error)
                console.print(contender.failure, style="red")
                continue
            if number > 0:
                contender.runs.append((small, whole))


def run(contender: Contender, source: Path, count: int, work: Path) -> Run:
    """Run it once. Raises RuntimeError with its last words if it does not make every picture."""
    output, log = work / "output", work / "log.txt"
    command = [word.format(source=source, output=output) for word in contender.command]
    with log.open("wb") as words:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=words, stderr=subprocess.STDOUT)  # noqa: S603 - our own words
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    made, stored = what_was_made(output)
    shutil.rmtree(output, ignore_errors=True)
    if process.returncode or made != count:
        last = (log.read_text(errors="replace").strip().splitlines() or ["nothing said"])[-1]
        raise RuntimeError(f"{made} of {count} pictures, exit code {process.returncode}: {last}")
    contender.stored = stored / made
    return Run(seconds=seconds, cpu=usage.ru_utime + usage.ru_stime, peak=usage.ru_maxrss * 1024)


def what_was_made(output: Path) -> tuple[int, int]:
    """Pictures in the output, and their bytes."""
    if (output / "made.json").exists():
        made = json.loads((output / "made.json").read_text())
        return made["pictures"], made["bytes"]
    sizes = []
    for path in output.rglob("*.tar"):
        with tarfile.open(path) as tar:
            sizes += [member.size for member in tar if member.name.endswith(".jpg")]
    return len(sizes), sum(sizes)


def figures(contender: Contender, more: int) -> Figures:
    """``more``: how many pictures the whole set has more than the small one."""
    pairs = contender.runs
    return Figures(
        # On a tiny set the noise of the start can be more than the pictures take.
        rate=[more / max(whole.seconds - small.seconds, 1e-3) for small, whole in pairs],
        cpu=[1000 * (whole.cpu - small.cpu) / more for small, whole in pairs],
        start=[small.seconds for small, _ in pairs],
        peak=[float(whole.peak) for _, whole in pairs],
    )


def table(found: list[Contender], more: int, title: str) -> Table:
    """Median, and minimum to maximum over the rounds; ratios are taken round by round."""
    shown = Table(
        title=title,
        caption="CPU and kB a picture; median, and minimum to maximum; x: times the Pillow loop of the same round",
    )
    columns = ("", "pictures/s", "x", "CPU ms", "x", "start s", "peak MB", "kB")
    for column in columns:
        shown.add_column(column, justify="left" if not column else "right")
    base = figures(found[0], more)
    for contender in found:
        if not contender.runs:
            continue
        own = figures(contender, more)
        shown.add_row(
            contender.name,
            spread(own.rate, 1),
            spread(ratios(own.rate, base.rate), 2),
            spread(own.cpu, 1),
            spread(ratios(own.cpu, base.cpu), 2),
            spread(own.start, 2),
            f"{max(own.peak) / 1e6:.0f}",
            f"{contender.stored / 1e3:.0f}",
        )
    return shown


def ratios(values: list[float], base: list[float]) -> list[float]:
    """Round by round, as far as both got."""
    return [value / one for value, one in zip(values, base, strict=False)]


def spread(values: list[float], digits: int) -> str:
    """Median, and below it minimum to maximum."""
    if not values:
        return "-"
    return f"{statistics.median(values):.{digits}f}\n[dim]{min(values):.{digits}f}-{max(values):.{digits}f}[/dim]"


def breakdown(source: Path) -> dict[str, float] | str:
    """Milliseconds a picture of each part of e4t's work, or why there are none."""
    command = [sys.executable, "-m", "benchmarks.data_prep.parts", str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own words
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["nothing said"])[-1]
    parts: dict[str, float] = json.loads(done.stdout)
    return parts


def python_of_img2dataset(folder: Path) -> str:
    """An environment of its own: its pins are not ours."""
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        console.print(f"installing {IMG2DATASET} into {folder}", style="dim")
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", IMG2DATASET], check=True)  # noqa: S603
        (folder / "installed").touch()
    return str(python)


def drawn(root: Path, kind: str, count: int) -> Path:
    """The pictures, kept from one run to the next."""
    folder = root / f"{kind}-{count}"
    if not folder.exists():
        console.print(f"drawing {count} pictures into {folder}", style="dim")
        partial = Path(tempfile.mkdtemp(dir=root))
        draw_tree(partial, KINDS[kind], count)
        partial.rename(folder)
    return folder


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=KINDS, default="ffhq", help="what the pictures are like")
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--quick", action="store_true", help="24 pictures, 1 round, 1 process")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "e4t-benchmark")
    parser.add_argument("--img2dataset-python", help="of an environment that has it; 'none' leaves it out")
    parser.add_argument("--json", type=Path, help="file for all figures; without one they are printed")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.pictures, arguments.rounds, arguments.processes = 24, 1, [1]
    if arguments.pictures <= SMALL:
        parser.error(f"--pictures: give more than {SMALL}")
    return arguments


def main() -> None:
    """Draw, race, report."""
    arguments = parsed()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    rival_python = arguments.img2dataset_python or python_of_img2dataset(arguments.folder / "img2dataset")
    sets = [(drawn(arguments.folder, arguments.kind, count), count) for count in (SMALL, arguments.pictures)]
    found = contenders(arguments.processes, None if rival_python == "none" else rival_python)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as work:
        race(found, sets, arguments.rounds, Path(work))
    more = arguments.pictures - SMALL
    title = f"{arguments.pictures} pictures like {arguments.kind}, {arguments.rounds} rounds, {os.cpu_count()} cores"
    console.print(table(found, more, title))
    parts = breakdown(sets[1][0])
    console.print(
        "e4t, ms a picture:", parts if isinstance(parts, str) else ", ".join(f"{n} {v:.2f}" for n, v in parts.items())
    )
    report = {
        "machine": {"cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()},
        "settings": {name: str(value) for name, value in vars(arguments).items()},
        "contenders": [asdict(one) | {"figures": asdict(figures(one, more))} for one in found],
        "parts": parts,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    else:
        print(json.dumps(report))


if __name__ == "__main__":
    main()
