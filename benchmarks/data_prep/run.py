"""Compare the speed of `e4t prepare` with baselines on synthetic photographs.

    python -m benchmarks.data_prep.run                  # ffhq: 1024 x 1024 PNG to 512 x 512 JPEG, 5 rounds
    python -m benchmarks.data_prep.run --kind camera    # or web, celeba: see benchmarks/data_prep/photographs.py
    python -m benchmarks.data_prep.run --quality 85     # colors are subsampled by all (see below)
    python -m benchmarks.data_prep.run --quick          # a smoke test that takes a minute

Run it from the root of a checkout, in its environment. img2dataset is installed into an environment of its own, unless
``--img2dataset-python`` names an existing one. In every round each contender processes the full dataset once and a
dataset of 8 images once: the difference is the cost of the images, the small dataset that of startup. The order of the
contenders is reversed in every second round, so that a machine that slows down affects all of them alike. CPU time is
that of the whole process tree and peak memory that of its largest process, both from wait4. A contender that fails to
process all images is left out, and its last line of output is shown.

All write 512 x 512 JPEG with these differences: the loop and img2dataset subsample chroma (4:2:0, their default), e4t
does so below quality 90 only; img2dataset resizes by area, the loop with LANCZOS, e4t as data_prep/images/resize.py
says. The column kB shows the effect. The floor is the least that e4t could take: CPU time of decoding and encoding
alone, see baselines.py. The second table is the one in docs/data.md.
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

from benchmarks.data_prep.baselines import COUNT_NAME, QUALITY, RESOLUTION
from benchmarks.data_prep.photographs import KINDS, write_images
from benchmarks.data_prep.report import FLOOR, Contender, Run, figures, markdown_table, results_table, suffix
from benchmarks.harness import write_report

E4T = (
    "prepare --data.source {source} --data.output {output} --data.domain face --data.resolution {resolution} "
    "--data.format jpg --data.quality {quality} --data.shard_samples {shard_samples} --workers {processes}"
)
IMG2DATASET = "img2dataset==1.47.0"
SMALL = 8
"""Number of images in the small dataset, which measures startup."""
NUM_SHARDS = 4
"""Shards of the full dataset. img2dataset starts a new process, which takes seconds, after every five shards."""
BASELINES = Path(__file__).with_name("baselines.py")
console = Console(width=120)


COMPARED = ("loop", "resizer", "img2dataset", "floor")


def contenders(
    processes: Sequence[int], img2dataset_python: str | None, compared: Sequence[str], quality: int, images: int
) -> list[Contender]:
    """Return the commands to compare."""
    settings = {"quality": quality, "shard_samples": -(-images // NUM_SHARDS)}

    def baseline(name: str, python: list[str], count: int = 1) -> list[str]:
        options = [f"--{option.replace('_', '-')}={value}" for option, value in settings.items()]
        return [*python, name, "{source}", "{output}", f"--processes={count}", *options]

    ours = [sys.executable, "-m", "benchmarks.data_prep.baselines"]
    theirs = [img2dataset_python, str(BASELINES)] if img2dataset_python else None
    competitors = [Contender("Pillow loop", baseline("loop", ours))] if "loop" in compared else []
    if theirs and "resizer" in compared:
        competitors.append(Contender("img2dataset Resizer", baseline("resizer", theirs)))
    if "floor" in compared:
        competitors.append(Contender(FLOOR, baseline("floor", ours)))
    for count in processes:
        command = [
            word.format(source="{source}", output="{output}", resolution=RESOLUTION, processes=count, **settings)
            for word in E4T.split()
        ]
        competitors.append(Contender(f"e4t prepare{suffix(count)}", [sys.executable, "-m", "e4t", *command]))
        if theirs and "img2dataset" in compared:
            competitors.append(Contender(f"img2dataset{suffix(count)}", baseline("img2dataset", theirs, count)))
    return competitors


def run_rounds(competitors: list[Contender], datasets: Sequence[tuple[Path, int]], rounds: int, work: Path) -> None:
    """Run every contender once per round on the small and the full dataset."""
    # Round 0 loads programs and images into the page cache and is not counted.
    for number in range(rounds + 1):
        for contender in competitors if number % 2 == 0 else competitors[::-1]:
            if contender.failure:
                continue
            console.print(f"round {number} of {rounds}: {contender.name}", style="dim")
            try:
                small, whole = (run(contender, source, count, work) for source, count in datasets)
            except RuntimeError as error:
                contender.failure = str(error)
                console.print(contender.failure, style="red")
                continue
            if number > 0:
                contender.runs.append((small, whole))


def run(contender: Contender, source: Path, count: int, work: Path) -> Run:
    """Run a contender once. Raises RuntimeError with its last line of output if it does not process every image."""
    output, log = work / "output", work / "log.txt"
    command = [word.format(source=source, output=output) for word in contender.command]
    with log.open("wb") as log_file:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=log_file, stderr=subprocess.STDOUT)  # noqa: S603 - fixed commands
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    written, stored, counted_cpu = count_output(output)
    shutil.rmtree(output, ignore_errors=True)
    if process.returncode or written != count:
        last = (log.read_text(errors="replace").strip().splitlines() or ["no output"])[-1]
        raise RuntimeError(f"{written} of {count} images, exit code {process.returncode}: {last}")
    contender.stored = stored / written
    cpu = usage.ru_utime + usage.ru_stime if counted_cpu is None else counted_cpu
    return Run(seconds=seconds, cpu=cpu, peak=usage.ru_maxrss * 1024)


def count_output(output: Path) -> tuple[int, int, float | None]:
    """Return the number of images in the output, their bytes, and the CPU seconds if not all of the process count."""
    if (output / COUNT_NAME).exists():
        counts = json.loads((output / COUNT_NAME).read_text())
        return counts["images"], counts["bytes"], counts.get("cpu")
    sizes = []
    for path in output.rglob("*.tar"):
        with tarfile.open(path) as tar:
            sizes += [member.size for member in tar if member.name.endswith(".jpg")]
    return len(sizes), sum(sizes), None


def breakdown(source: Path) -> dict[str, float] | str:
    """Return CPU milliseconds per image for each step of e4t, or an error message."""
    command = [sys.executable, "-m", "benchmarks.data_prep.breakdown", str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - fixed command
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["no output"])[-1]
    steps: dict[str, float] = json.loads(done.stdout)
    return steps


def install_img2dataset(folder: Path) -> str:
    """Install img2dataset into its own environment, as its pinned dependencies conflict; return the interpreter."""
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        console.print(f"installing {IMG2DATASET} into {folder}", style="dim")
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", IMG2DATASET], check=True)  # noqa: S603
        (folder / "installed").touch()
    return str(python)


def cached_images(root: Path, kind: str, count: int) -> Path:
    """Return a folder of images, which is kept from one run to the next."""
    folder = root / f"{kind}-{count}"
    if not folder.exists():
        console.print(f"generating {count} images in {folder}", style="dim")
        partial = Path(tempfile.mkdtemp(dir=root))
        write_images(partial, KINDS[kind], count)
        partial.rename(folder)
    return folder


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=KINDS, default="ffhq", help="type of the images")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quality", type=int, default=QUALITY)
    parser.add_argument("--compared", choices=COMPARED, nargs="+", default=COMPARED, help="what e4t is compared with")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--quick", action="store_true", help="24 images, 1 round, 1 process")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "e4t-benchmark")
    parser.add_argument(
        "--img2dataset-python", help="interpreter of an environment with img2dataset; 'none' leaves it out"
    )
    parser.add_argument("--json", type=Path, help="file for all measurements; printed if omitted")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.images, arguments.rounds, arguments.processes = 24, 1, [1]
    if arguments.images <= SMALL:
        parser.error(f"--images: give more than {SMALL}")
    return arguments


def main() -> None:
    """Generate the images, run all contenders and report."""
    arguments = parse_arguments()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    img2dataset_python = arguments.img2dataset_python or install_img2dataset(arguments.folder / "img2dataset")
    datasets = [(cached_images(arguments.folder, arguments.kind, count), count) for count in (SMALL, arguments.images)]
    if img2dataset_python == "none":
        img2dataset_python = None
    competitors = contenders(
        arguments.processes, img2dataset_python, arguments.compared, arguments.quality, arguments.images
    )
    with tempfile.TemporaryDirectory(dir=arguments.folder) as work:
        run_rounds(competitors, datasets, arguments.rounds, Path(work))
    more = arguments.images - SMALL
    title = f"{arguments.images} images like {arguments.kind}, {arguments.rounds} rounds, {os.cpu_count()} cores"
    console.print(results_table(competitors, more, title))
    print("\n".join(markdown_table(competitors, more, arguments.kind, arguments.processes)))
    steps = breakdown(datasets[1][0])
    console.print(
        "e4t, CPU ms per image:",
        steps if isinstance(steps, str) else ", ".join(f"{n} {v:.2f}" for n, v in steps.items()),
    )
    settings = {name: str(value) for name, value in vars(arguments).items()}
    compared = [asdict(one) | {"figures": asdict(figures(one, more))} for one in competitors]
    write_report(settings, {"contenders": compared, "steps": steps}, arguments.json)


if __name__ == "__main__":
    main()
