"""Times `e4t prepare` beside its rivals on drawn photographs, in one run.

    python -m benchmarks.data_prep.run                  # ffhq: 1024 x 1024 PNG to 512 x 512 JPEG, 5 rounds
    python -m benchmarks.data_prep.run --kind camera    # or web, celeba: see benchmarks/data_prep/images/transform.py
    python -m benchmarks.data_prep.run --quick          # a smoke run of a minute

From the root of a checkout, in its environment; img2dataset gets one of its own (``--img2dataset-python`` names one
that is there). In every round each contender makes the set once and a set of 8 pictures once; the difference is what
the pictures cost, the small set what starting costs. Rounds go through the contenders forwards and backwards in turn,
so that a machine that slows down does so for all. CPU is of the whole process tree, the peak memory of its largest
process, both from wait4. A contender that does not make all pictures is left out, with its last words.

All make 512 x 512 JPEG at quality 95, but not the same: the loop and img2dataset store colours at half the resolution
(4:2:0, their default), e4t at full; img2dataset resizes by area, the others with LANCZOS. The column kB shows it. The
second table is that of docs/data.md.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from benchmarks.data_prep.pictures import KINDS, draw_tree
from benchmarks.data_prep.report import Contender, Run, against, figures, of, table
from benchmarks.data_prep.rivals import QUALITY, RESOLUTION, SHARD_SAMPLES
from benchmarks.harness import write_report

E4T = (
    "prepare --data.source {source} --data.output {output} --data.domain face --data.resolution {resolution} "
    "--data.format jpg --data.quality {quality} --data.shard_samples {shard_samples} --workers {processes}"
)
IMG2DATASET = "img2dataset==1.47.0"
SMALL = 8
RIVALS = Path(__file__).with_name("rivals.py")
console = Console(width=120)


def contenders(processes: Sequence[int], rival_python: str | None) -> list[Contender]:
    """What is compared."""
    settings = {"resolution": RESOLUTION, "quality": QUALITY, "shard_samples": SHARD_SAMPLES}
    found = [Contender("Pillow loop", [sys.executable, str(RIVALS), "loop", "{source}", "{output}"])]
    if rival_python:
        found.append(Contender("img2dataset Resizer", [rival_python, str(RIVALS), "resizer", "{source}", "{output}"]))
    for count in processes:
        words = [word.format(source="{source}", output="{output}", processes=count, **settings) for word in E4T.split()]
        found.append(Contender(f"e4t prepare{of(count)}", [sys.executable, "-m", "e4t", *words]))
        if rival_python:
            command = [rival_python, str(RIVALS), "img2dataset", "{source}", "{output}", "--processes", str(count)]
            found.append(Contender(f"img2dataset{of(count)}", command))
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


def breakdown(source: Path) -> dict[str, float] | str:
    """CPU milliseconds a picture of each part of e4t's work, or why there are none."""
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
    print("\n".join(against(found, more, arguments.kind, arguments.processes)))
    parts = breakdown(sets[1][0])
    console.print(
        "e4t, CPU ms a picture:",
        parts if isinstance(parts, str) else ", ".join(f"{n} {v:.2f}" for n, v in parts.items()),
    )
    settings = {name: str(value) for name, value in vars(arguments).items()}
    compared = [asdict(one) | {"figures": asdict(figures(one, more))} for one in found]
    write_report(settings, {"contenders": compared, "parts": parts}, arguments.json)


if __name__ == "__main__":
    main()
