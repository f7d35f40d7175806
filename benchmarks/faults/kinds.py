"""The kinds of faults. Each strikes a running job and tells whether there was anything to strike."""

import random
import signal
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.faults.hosts import Host, send
from benchmarks.faults.job import START_TIMEOUT, STEP_TIMEOUT, Job, RunFolder
from benchmarks.faults.supervisor import Supervisor

SAVING = 0.6
"""Seconds that writing a checkpoint of the small run takes, roughly."""
OTHER_NUMBERS = {2: (1, 4), 1: (2, 4), 4: (1, 2)}


@dataclass
class Scene:
    """What a fault happens to."""

    job: Job
    run: RunFolder
    supervisor: Supervisor
    rng: random.Random
    ranks: int
    """That are started next."""

    def some_host(self) -> Host:
        """Any of the hosts."""
        return self.rng.choice(self.supervisor.hosts)


Strike = Callable[[Scene], bool]


@dataclass(frozen=True)
class Kind:
    """A kind of fault."""

    name: str
    strike: Strike
    hosts: int = 1
    """That the job runs on; several are network namespaces."""
    same_world: bool = True
    """Whether as many ranks go on as before: only then the final weights are the same bytes."""


def kill_one(scene: Scene) -> bool:
    """``kill -9`` for one rank."""
    return _signal_one(scene, signal.SIGKILL)


def terminate_one(scene: Scene) -> bool:
    """SIGTERM for one rank: all save and ask to be started again."""
    return _signal_one(scene, signal.SIGTERM)


def warn_one(scene: Scene) -> bool:
    """SIGUSR2 for one rank, what a scheduler can send before the time is up."""
    return _signal_one(scene, signal.SIGUSR2)


def kill_all(scene: Scene) -> bool:
    """``kill -9`` for all that belongs to the job, on every host."""
    struck = bool(scene.supervisor.ranks())
    for host in scene.supervisor.hosts:
        host.kill()
    return struck


def kill_while_saving(scene: Scene) -> bool:
    """``kill -9`` for all while a checkpoint is half written; tries at the next one if this one was faster."""
    while True:
        scene.supervisor.wait_until(scene.run.saving, START_TIMEOUT)
        if scene.supervisor.done:
            return False
        scene.supervisor.wait(scene.rng.uniform(0, SAVING))
        if scene.run.saving():
            kill_all(scene)
            if scene.run.saving():
                return True


def kill_and_resize(scene: Scene) -> bool:
    """``kill -9`` for all; another number of ranks goes on."""
    scene.ranks = scene.rng.choice(OTHER_NUMBERS[scene.ranks])
    scene.supervisor.command = scene.job.on_one_host(scene.run.path.name, scene.ranks)
    return kill_all(scene)


def cut_link_briefly(scene: Scene) -> bool:
    """No packet reaches one host or leaves it, for less than a rank waits; nobody is told."""
    host, struck = scene.some_host(), bool(scene.supervisor.ranks())
    host.cut()
    scene.supervisor.wait(scene.rng.uniform(1, STEP_TIMEOUT / 2))
    host.restore()
    return struck


def cut_link(scene: Scene) -> bool:
    """The same until a rank has given up, if any is there yet, and a while longer."""
    host, before = scene.some_host(), scene.supervisor.ranks()
    host.cut()
    if before:  # without a link none comes to be
        scene.supervisor.wait_until(lambda: scene.supervisor.ranks() != before, 2 * START_TIMEOUT)
    scene.supervisor.wait(scene.rng.uniform(0, STEP_TIMEOUT))
    host.restore()
    return bool(before)


def lose_host(scene: Scene) -> bool:
    """A host falls silent and dies with everything on it; after a while it comes back, empty."""
    host, struck = scene.some_host(), bool(scene.supervisor.ranks())
    host.cut()
    scene.supervisor.switch_off(host)
    scene.supervisor.wait(scene.rng.uniform(1, STEP_TIMEOUT))
    host.restore()
    scene.supervisor.switch_on(host)
    return struck


def _signal_one(scene: Scene, number: signal.Signals) -> bool:
    scene.supervisor.wait_until(lambda: bool(scene.supervisor.ranks()), START_TIMEOUT)  # they may be starting
    ranks = scene.supervisor.ranks()
    return bool(ranks) and send(ranks[scene.rng.choice(sorted(ranks))], number)


KINDS = (
    Kind("kill-one-rank", kill_one),
    Kind("kill-all-ranks", kill_all),
    Kind("sigterm-one-rank", terminate_one),
    Kind("sigusr2-one-rank", warn_one),
    Kind("kill-while-saving", kill_while_saving),
    Kind("other-number-of-ranks", kill_and_resize, same_world=False),
    Kind("kill-one-rank-of-two-hosts", kill_one, hosts=2),
    Kind("cut-link-briefly", cut_link_briefly, hosts=2),
    Kind("cut-link", cut_link, hosts=2),
    Kind("lose-host", lose_host, hosts=2),
)
