"""Inject faults into runs at random moments, and compare the results with an undisturbed run."""

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
"""Seconds that a run may take to recover from a fault."""
MAX_STARTS = 30
"""Starts of the command that a run may need, on all hosts together."""


@dataclass(frozen=True)
class Moment:
    """When to inject a fault: after a step, and then after a fraction of the duration of a step or of a start."""

    step: int
    fraction: float

    @classmethod
    def draw(cls, rng: random.Random, count: int, steps: int) -> "list[Moment]":
        """Draw ``count`` moments, in the order in which they come."""
        drawn = [cls(rng.randrange(steps - 1), rng.random()) for _ in range(count)]
        return sorted(drawn, key=lambda moment: moment.step)


@dataclass(frozen=True)
class Pace:
    """Durations of the undisturbed run, in seconds."""

    start: float
    """From the start of the command to the end of the first step."""
    step: float
    """Mean duration of a step."""


@dataclass
class Outcome:
    """Result of a run with faults."""

    fault: str
    moments: list[Moment]
    tried: int = 0
    """Faults that hit a running process."""
    survived: int = 0
    """Faults of these after which the run continued."""
    starts: int = 0
    """Starts of the command, on all hosts together."""
    seconds: float = 0.0
    samples: Samples | None = None
    same_weights: bool | None = None
    distance: float | None = None
    error: str = ""


@dataclass
class Campaign:
    """Runs of one job with faults, on this machine or on the hosts of a network that all runs share."""

    job: Job
    network: Network | None
    seed: int = 0
    pace: dict[int, Pace] = field(default_factory=dict)
    """Pace of the undisturbed run, by number of hosts."""

    def run_undisturbed(self, hosts: int) -> None:
        """Run the job without a fault, as the reference for the weights of other runs."""
        name, start = f"undisturbed-{hosts}", time.time()
        with self._supervised(name, hosts, max_starts=hosts) as supervisor:
            supervisor.finish(LIMIT)
        times = [when for when, _ in self.job.run(name).steps()]
        steps = [after - before for before, after in zip(times, times[1:], strict=False)]
        self.pace[hosts] = Pace(start=times[0] - start, step=statistics.mean(steps))

    def run(self, kind: Kind, name: str, moments: Sequence[Moment]) -> Outcome:
        """Run the job with a fault at each moment. All other randomness follows from the seed and ``name``."""
        if kind.hosts not in self.pace:
            self.run_undisturbed(kind.hosts)
        outcome, start = Outcome(kind.name, list(moments)), time.monotonic()
        with self._supervised(name, kind.hosts) as supervisor:
            scene = Scene(self.job, self.job.run(name), supervisor, random.Random(f"{self.seed} {name}"), RANKS)
            try:
                self._inject_all(kind, scene, outcome)
            except JobError as error:
                outcome.error = str(error)
            outcome.starts = supervisor.starts
        outcome.seconds = time.monotonic() - start
        if not outcome.error:
            self._check(kind, name, outcome)
        return outcome

    def _inject_all(self, kind: Kind, scene: Scene, outcome: Outcome) -> None:
        disturbed, pace, supervisor = time.time(), self.pace[kind.hosts], scene.supervisor
        for moment in outcome.moments:
            supervisor.wait_until(lambda step=moment.step: self._reached(scene, step), LIMIT)  # type: ignore[misc]
            outcome.survived = outcome.tried
            steps = scene.run.steps()
            running = bool(steps) and steps[-1][0] > disturbed
            supervisor.wait(moment.fraction * (pace.step if running else pace.start))
            if supervisor.done:
                break
            outcome.tried += kind.inject(scene)
            disturbed = time.time()
        supervisor.finish(LIMIT)
        outcome.survived = outcome.tried

    @staticmethod
    def _reached(scene: Scene, step: int) -> bool:
        return max((done for _, done in scene.run.steps()), default=0) >= step

    def samples(self, name: str) -> Samples:
        """Count the samples that a run lost and repeated."""
        return audit(self.job.run(name).path / "logs", self.job.order(), steps=self.job.steps, batch=self.job.batch)

    def _check(self, kind: Kind, name: str, outcome: Outcome) -> None:
        names = (name, f"undisturbed-{kind.hosts}")
        weights, reference = (self.job.run(run_name).weights(self.job.steps) for run_name in names)
        outcome.samples = self.samples(name)
        outcome.same_weights = same_weights(weights, reference)
        outcome.distance = distance(weights, reference)

    @contextmanager
    def _supervised(self, name: str, hosts: int, max_starts: int = MAX_STARTS) -> Iterator[Supervisor]:
        if hosts == 1:
            hosts_used: Sequence[Host] = [Host.here()]
            command = self.job.on_one_host(name, RANKS)
        elif self.network:
            hosts_used = self.network.hosts[:hosts]
            command = self.job.on_each_of(hosts_used, name)
        else:
            raise ValueError(f"{name} needs a network of {hosts} hosts")
        with Supervisor(hosts_used, command, self.job.folder / "logs" / f"{name}.log", max_starts) as supervisor:
            yield supervisor
