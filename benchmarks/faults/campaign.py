"""Strike runs at random moments, and compare what they come to with a run that nobody disturbed."""

import random
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from benchmarks.faults.audit import Samples, audit, distance, same_weights
from benchmarks.faults.hosts import Host, Network
from benchmarks.faults.job import RANKS, Job
from benchmarks.faults.kinds import Kind, Scene
from benchmarks.faults.supervisor import JobError, Supervisor

LIMIT = 300.0
"""Seconds a run may take to get over a fault."""
PATIENCE = 30
"""Starts of all hosts together that a run may take."""


@dataclass(frozen=True)
class Moment:
    """When to strike: after a step, and then after a share of the time that a step, or starting, takes."""

    step: int
    share: float

    @classmethod
    def draw(cls, rng: random.Random, count: int, steps: int) -> "list[Moment]":
        """So many, in the order in which they come."""
        drawn = [cls(rng.randrange(steps - 1), rng.random()) for _ in range(count)]
        return sorted(drawn, key=lambda moment: moment.step)


@dataclass(frozen=True)
class Pace:
    """Of the undisturbed run, in seconds."""

    start: float
    """From the command to the first step's end."""
    step: float


@dataclass
class Outcome:
    """What became of a run."""

    fault: str
    moments: list[Moment]
    tried: int = 0
    """Faults that struck something."""
    survived: int = 0
    """Of these, after which the run went on."""
    starts: int = 0
    """Times that a scheduler had to start something."""
    seconds: float = 0.0
    samples: Samples | None = None
    same_weights: bool | None = None
    distance: float | None = None
    error: str = ""


@dataclass
class Campaign:
    """Runs of one job, on this machine or on hosts that are there for all of them."""

    job: Job
    network: Network | None
    seed: int = 0
    pace: dict[int, Pace] = field(default_factory=dict)
    """By the number of hosts."""

    def undisturbed(self, hosts: int) -> None:
        """Run it once without a fault; its weights are what the others are compared with."""
        name, began = f"undisturbed-{hosts}", time.time()
        with self._supervised(name, hosts, patience=hosts) as supervisor:
            supervisor.finish(LIMIT)
        times = [when for when, _ in self.job.run(name).steps()]
        steps = [after - before for before, after in zip(times, times[1:], strict=False)]
        self.pace[hosts] = Pace(start=times[0] - began, step=statistics.mean(steps))

    def run(self, kind: Kind, name: str, moments: Sequence[Moment]) -> Outcome:
        """One run under a name of its own, struck at each moment; what else is random follows from seed and name."""
        if kind.hosts not in self.pace:
            self.undisturbed(kind.hosts)
        outcome, began = Outcome(kind.name, list(moments)), time.monotonic()
        with self._supervised(name, kind.hosts) as supervisor:
            scene = Scene(self.job, self.job.run(name), supervisor, random.Random(f"{self.seed} {name}"), RANKS)
            try:
                self._strike_all(kind, scene, outcome)
            except JobError as error:
                outcome.error = str(error)
            outcome.starts = supervisor.starts
        outcome.seconds = time.monotonic() - began
        if not outcome.error:
            self._judge(kind, name, outcome)
        return outcome

    def _strike_all(self, kind: Kind, scene: Scene, outcome: Outcome) -> None:
        disturbed, pace, supervisor = time.time(), self.pace[kind.hosts], scene.supervisor
        for moment in outcome.moments:
            supervisor.wait_until(lambda step=moment.step: self._reached(scene, step), LIMIT)  # type: ignore[misc]
            outcome.survived = outcome.tried
            steps = scene.run.steps()
            running = bool(steps) and steps[-1][0] > disturbed
            supervisor.wait(moment.share * (pace.step if running else pace.start))
            if supervisor.done:
                break
            outcome.tried += kind.strike(scene)
            disturbed = time.time()
        supervisor.finish(LIMIT)
        outcome.survived = outcome.tried

    @staticmethod
    def _reached(scene: Scene, step: int) -> bool:
        return max((done for _, done in scene.run.steps()), default=0) >= step

    def samples(self, name: str) -> Samples:
        """What a run has lost and repeated."""
        return audit(self.job.run(name).path / "logs", self.job.order(), steps=self.job.steps, batch=self.job.batch)

    def _judge(self, kind: Kind, name: str, outcome: Outcome) -> None:
        names = (name, f"undisturbed-{kind.hosts}")
        weights, reference = (self.job.run(one).weights(self.job.steps) for one in names)
        outcome.samples = self.samples(name)
        outcome.same_weights = same_weights(weights, reference)
        outcome.distance = distance(weights, reference)

    @contextmanager
    def _supervised(self, name: str, hosts: int, patience: int = PATIENCE) -> Iterator[Supervisor]:
        if hosts == 1:
            where: Sequence[Host] = [Host.here()]
            command = self.job.on_one_host(name, RANKS)
        elif self.network:
            where = self.network.hosts[:hosts]
            command = self.job.on_each_of(where, name)
        else:
            raise ValueError(f"{name} needs a network of {hosts} hosts")
        with Supervisor(where, command, self.job.folder / "logs" / f"{name}.log", patience) as supervisor:
            yield supervisor
