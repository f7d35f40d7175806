"""Disturbs small pre-training runs at random moments, and counts what it costs them.

    python -m benchmarks.faults                                  # 20 moments of each kind, an hour or so
    python -m benchmarks.faults --moments 1 --faults cut-link    # a smoke run

From the root of a checkout, in its environment. Kinds that need several hosts need root and iproute2, for network
namespaces; without them they are left out, and the table says so. docs/faults.md says what the columns mean.
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
from benchmarks.faults.hosts import Network, cannot_have_several
from benchmarks.faults.job import Job
from benchmarks.faults.kinds import KINDS, Kind
from benchmarks.harness import write_report

console = Console(width=120, highlight=False)


def campaign(job: Job, kinds: list[Kind], arguments: argparse.Namespace) -> list[Outcome]:
    """Runs of all kinds in turn, so that each has had its share when the time is up."""
    end, outcomes = time.monotonic() + 60 * arguments.minutes, []
    with network(max(kind.hosts for kind in kinds)) as hosts:
        runs = Campaign(job, hosts, arguments.seed)
        for number, faults in enumerate(shares(arguments.moments, arguments.a_run)):
            for kind in kinds:
                if time.monotonic() > end:
                    return outcomes
                name = f"{kind.name}-{number}"
                moments = Moment.draw(random.Random(f"{arguments.seed} {name}"), faults, job.steps)
                outcome = runs.run(kind, name, moments)
                outcomes.append(outcome)
                console.print(told(outcome), style="dim")
    return outcomes


def shares(moments: int, most: int) -> list[int]:
    """Moments of each run."""
    return [min(most, moments - begun) for begun in range(0, moments, most)]


@contextmanager
def network(hosts: int) -> Iterator[Network | None]:
    """Of so many hosts, if it takes more than this one."""
    if hosts == 1:
        yield None
        return
    with Network(hosts) as made:
        yield made


def told(outcome: Outcome) -> str:
    """A run in a line."""
    where = ", ".join(f"{moment.step}+{moment.share:.2f}" for moment in outcome.moments)
    end = outcome.error or f"{outcome.samples}, same weights: {outcome.same_weights}"
    return (
        f"{outcome.fault} at {where}: survived {outcome.survived} of {outcome.tried} in {outcome.seconds:.0f} s; {end}"
    )


def table(kinds: list[Kind], outcomes: list[Outcome], title: str) -> Table:
    """A row a kind."""
    shown = Table(title=title)
    for column in ("fault", "runs", "tried", "survived", "samples lost", "repeated", "final weights"):
        shown.add_column(column, justify="left" if column == "fault" else "right")
    for kind in kinds:
        own = [outcome for outcome in outcomes if outcome.fault == kind.name]
        samples = [outcome.samples for outcome in own if outcome.samples]
        shown.add_row(
            kind.name,
            str(len(own)),
            str(sum(outcome.tried for outcome in own)),
            str(sum(outcome.survived for outcome in own)),
            str(sum(one.lost for one in samples)) if samples else "-",
            str(sum(one.repeated for one in samples)) if samples else "-",
            weights(kind, own),
        )
    return shown


def weights(kind: Kind, outcomes: list[Outcome]) -> str:
    """How many runs have the undisturbed run's bytes, and how far the others are from it."""
    ended = [outcome for outcome in outcomes if outcome.distance is not None]
    if not ended:
        return "-"
    same = sum(bool(outcome.same_weights) for outcome in ended)
    far = max(outcome.distance or 0.0 for outcome in ended)
    return f"same bytes in {same} of {len(ended)}" if kind.same_world and not far else f"within {far:.1e}"


def good(kind: Kind, outcome: Outcome) -> bool:
    """Whether nothing was lost."""
    clean = not outcome.error and outcome.samples and not outcome.samples.lost and not outcome.samples.repeated
    return bool(clean and (outcome.same_weights or not kind.same_world))


def parsed() -> argparse.Namespace:
    """The command line."""
    names = [kind.name for kind in KINDS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=20, help="faults of each kind")
    parser.add_argument("--a-run", type=int, default=5, help="faults that one run has to bear, at most")
    parser.add_argument("--faults", nargs="+", choices=names, default=names, metavar="KIND", help=", ".join(names))
    parser.add_argument("--steps", type=int, default=12, help="of a run")
    parser.add_argument("--minutes", type=float, default=120, help="after which no further run is begun")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, help="to work in, and to leave; by default one that is removed")
    parser.add_argument("--json", type=Path, help="file for everything that was seen")
    return parser.parse_args()


def main() -> int:
    """Disturb, report; exit code 1 if anything was lost."""
    arguments = parsed()
    kinds = [kind for kind in KINDS if kind.name in arguments.faults]
    if reason := cannot_have_several():
        left_out = [kind.name for kind in kinds if kind.hosts > 1]
        kinds = [kind for kind in kinds if kind.hosts == 1]
        console.print(f"left out: {', '.join(left_out)}; {reason}", style="yellow")
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        outcomes = campaign(Job.make(folder, arguments.steps), kinds, arguments)
    title = f"{arguments.moments} moments a kind, runs of {arguments.steps} steps, seed {arguments.seed}"
    console.print(table(kinds, outcomes, title))
    if arguments.json:
        write_report(vars(arguments), {"runs": [asdict(outcome) for outcome in outcomes]}, arguments.json)
    by_name = {kind.name: kind for kind in KINDS}
    return 0 if outcomes and all(good(by_name[outcome.fault], outcome) for outcome in outcomes) else 1


if __name__ == "__main__":
    raise SystemExit(main())
