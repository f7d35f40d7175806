"""The kinds of faults. Each is injected into a running job and returns whether it hit a running process."""

import random
import signal
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.faults.hosts import Host, send
from benchmarks.faults.job import START_TIMEOUT, STEP_TIMEOUT, Job, RunFolder
from benchmarks.faults.supervisor import Supervisor

SAVING = 0.6
"""Approximate seconds that writing a checkpoint of the small run takes."""
OTHER_NUMBERS = {2: (1, 4), 1: (2, 4), 4: (1, 2)}
"""Numbers of ranks that a run may continue with, by the current number."""


@dataclass
class Scene:
    """The running job that a fault is injected into."""

    job: Job
    run: RunFolder
    supervisor: Supervisor
    rng: random.Random
    ranks: int
    """Number of ranks at the next start."""

    def random_host(self) -> Host:
        """Choose one of the hosts."""
        return self.rng.choice(self.supervisor.hosts)


Injection = Callable[[Scene], bool]


@dataclass(frozen=True)
class Kind:
    """A kind of fault."""

    name: str
    inject: Injection
    hosts: int = 1
    """Number of hosts that the job runs on; several hosts are network namespaces."""
    same_world: bool = True
    """Whether the number of ranks stays the same: only then are the final weights the same bytes."""


def kill_one(scene: Scene) -> bool:
    """Send SIGKILL to one rank."""
    return _signal_one(scene, signal.SIGKILL)


def terminate_one(scene: Scene) -> bool:
    """Send SIGTERM to one rank: all ranks save a checkpoint and exit with code 75."""
    return _signal_one(scene, signal.SIGTERM)


def warn_one(scene: Scene) -> bool:
    """Send SIGUSR2 to one rank, as a scheduler does before its time limit."""
    return _signal_one(scene, signal.SIGUSR2)


def kill_all(scene: Scene) -> bool:
    """Send SIGKILL to all processes of the job, on every host."""
    hit = bool(scene.supervisor.ranks())
    for host in scene.supervisor.hosts:
        host.kill()
    return hit


def kill_while_saving(scene: Scene) -> bool:
    """Send SIGKILL to all processes while a checkpoint is being written; try again if it was complete before."""
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
    """Send SIGKILL to all processes, and continue with another number of ranks."""
    scene.ranks = scene.rng.choice(OTHER_NUMBERS[scene.ranks])
    scene.supervisor.command = scene.job.on_one_host(scene.run.path.name, scene.ranks)
    return kill_all(scene)


def cut_link_briefly(scene: Scene) -> bool:
    """Drop all packets from and to one host, for less time than a rank waits. No process is notified."""
    host, hit = scene.random_host(), bool(scene.supervisor.ranks())
    host.cut()
    scene.supervisor.wait(scene.rng.uniform(1, STEP_TIMEOUT / 2))
    host.restore()
    return hit


def cut_link(scene: Scene) -> bool:
    """Drop all packets from and to one host until a rank has given up, if ranks are running, and a while longer."""
    host, before = scene.random_host(), scene.supervisor.ranks()
    host.cut()
    if before:
        scene.supervisor.wait_until(lambda: scene.supervisor.ranks() != before, 2 * START_TIMEOUT)
    scene.supervisor.wait(scene.rng.uniform(0, STEP_TIMEOUT))
    host.restore()
    return bool(before)


def lose_host(scene: Scene) -> bool:
    """Cut a host off and kill all of its processes; after a while it is reachable again, without processes."""
    host, hit = scene.random_host(), bool(scene.supervisor.ranks())
    host.cut()
    scene.supervisor.switch_off(host)
    scene.supervisor.wait(scene.rng.uniform(1, STEP_TIMEOUT))
    host.restore()
    scene.supervisor.switch_on(host)
    return hit


def _signal_one(scene: Scene, number: signal.Signals) -> bool:
    scene.supervisor.wait_until(lambda: bool(scene.supervisor.ranks()), START_TIMEOUT)
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
