"""Inject faults into small pretraining runs at random moments, and report lost and repeated samples.

    python -m benchmarks.faults                                  # 20 faults of each kind, takes about an hour
    python -m benchmarks.faults --moments 1 --faults cut-link    # a smoke test

Run it from the root of a checkout. Faults on several hosts need root and iproute2, for network namespaces; otherwise
they are left out with a message. docs/faults.md explains the columns of the table.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.faults.campaign import Campaign, Moment, Outcome
from benchmarks.faults.hosts import Network, missing_requirement
from benchmarks.faults.job import Job
from benchmarks.faults.kinds import KINDS, Kind
from benchmarks.harness import write_report

console = Console(width=120, highlight=False)


def campaign(job: Job, kinds: list[Kind], arguments: argparse.Namespace) -> list[Outcome]:
    """Run all kinds in turn, so that each has been tried about equally often at the time limit."""
    end, outcomes = time.monotonic() + 60 * arguments.minutes, []
    with network(max(kind.hosts for kind in kinds)) as hosts:
        runs = Campaign(job, hosts, arguments.seed)
        for number, faults in enumerate(split_moments(arguments.moments, arguments.faults_per_run)):
            for kind in kinds:
                if time.monotonic() > end:
                    return outcomes
                name = f"{kind.name}-{number}"
                moments = Moment.draw(random.Random(f"{arguments.seed} {name}"), faults, job.steps)
                outcome = runs.run(kind, name, moments)
                outcomes.append(outcome)
                console.print(summarize(outcome), style="dim")
    return outcomes


def split_moments(moments: int, most: int) -> list[int]:
    """Split the moments into runs of at most ``most``."""
    return [min(most, moments - start) for start in range(0, moments, most)]


@contextmanager
def network(hosts: int) -> Iterator[Network | None]:
    """Create a network of hosts, if more than this machine is needed."""
    if hosts == 1:
        yield None
        return
    with Network(hosts) as network:
        yield network


def summarize(outcome: Outcome) -> str:
    """Describe a run in one line."""
    where = ", ".join(f"{moment.step}+{moment.fraction:.2f}" for moment in outcome.moments)
    end = outcome.error or f"{outcome.samples}, same weights: {outcome.same_weights}"
    return (
        f"{outcome.fault} at {where}: survived {outcome.survived} of {outcome.tried} in {outcome.seconds:.0f} s; {end}"
    )


def table(kinds: list[Kind], outcomes: list[Outcome], title: str) -> Table:
    """Return a table with one row per kind of fault."""
    result = Table(title=title)
    for column in ("fault", "runs", "tried", "survived", "samples lost", "repeated", "final weights"):
        result.add_column(column, justify="left" if column == "fault" else "right")
    for kind in kinds:
        own = [outcome for outcome in outcomes if outcome.fault == kind.name]
        samples = [outcome.samples for outcome in own if outcome.samples]
        result.add_row(
            kind.name,
            str(len(own)),
            str(sum(outcome.tried for outcome in own)),
            str(sum(outcome.survived for outcome in own)),
            str(sum(counts.lost for counts in samples)) if samples else "-",
            str(sum(counts.repeated for counts in samples)) if samples else "-",
            weights(kind, own),
        )
    return result


def weights(kind: Kind, outcomes: list[Outcome]) -> str:
    """Say how many runs have the same bytes as the undisturbed run, or how far they are from it."""
    ended = [outcome for outcome in outcomes if outcome.distance is not None]
    if not ended:
        return "-"
    same = sum(bool(outcome.same_weights) for outcome in ended)
    far = max(outcome.distance or 0.0 for outcome in ended)
    return f"same bytes in {same} of {len(ended)}" if kind.same_world and not far else f"within {far:.1e}"


def is_good(kind: Kind, outcome: Outcome) -> bool:
    """Return whether no sample and no bit of the weights was lost."""
    clean = not outcome.error and outcome.samples and not outcome.samples.lost and not outcome.samples.repeated
    return bool(clean and (outcome.same_weights or not kind.same_world))


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    names = [kind.name for kind in KINDS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=20, help="faults of each kind")
    parser.add_argument("--faults-per-run", type=int, default=5, help="largest number of faults in one run")
    parser.add_argument("--faults", nargs="+", choices=names, default=names, metavar="KIND", help=", ".join(names))
    parser.add_argument("--steps", type=int, default=12, help="optimizer steps of a run")
    parser.add_argument("--minutes", type=float, default=120, help="start no further run after this many minutes")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the moments")
    parser.add_argument("--folder", type=Path, help="working folder, which is kept; by default a temporary one")
    parser.add_argument("--json", type=Path, help="write all results to this file")
    return parser.parse_args()


def main() -> int:
    """Run the campaign and print the report. Returns exit code 1 if anything was lost."""
    arguments = parse_arguments()
    kinds = [kind for kind in KINDS if kind.name in arguments.faults]
    if reason := missing_requirement():
        left_out = [kind.name for kind in kinds if kind.hosts > 1]
        kinds = [kind for kind in kinds if kind.hosts == 1]
        console.print(f"left out: {', '.join(left_out)}; {reason}", style="yellow")
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        outcomes = campaign(Job.make(folder, arguments.steps), kinds, arguments)
    title = f"{arguments.moments} faults of each kind, runs of {arguments.steps} steps, seed {arguments.seed}"
    console.print(table(kinds, outcomes, title))
    if arguments.json:
        write_report(vars(arguments), {"runs": [asdict(outcome) for outcome in outcomes]}, arguments.json)
    by_name = {kind.name: kind for kind in KINDS}
    return 0 if outcomes and all(is_good(by_name[outcome.fault], outcome) for outcome in outcomes) else 1


if __name__ == "__main__":
    raise SystemExit(main())
