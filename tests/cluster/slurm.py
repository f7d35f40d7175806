"""A real SLURM on one machine: munged, slurmctld, and two slurmd that act as nodes."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
NODES = ("n1", "n2")
FIRST_PORT = 17800
CONFIG = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/munge.sock,cred_expire=5
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=10
MinJobAge=3600
SlurmdTimeout=120
ReturnToService=2
MpiDefault=none
MaxArraySize=3
AccountingStorageType=accounting_storage/none
SlurmdParameters=config_overrides
PartitionName=train Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=120
PartitionName=urgent Nodes=n1,n2 MaxTime=INFINITE State=UP PriorityTier=2 PreemptMode=OFF
"""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory=4000 State=UNKNOWN\n"


@dataclass(frozen=True)
class Process:
    """A process of this machine."""

    pid: int
    parent: int
    words: list[str]
    environment: dict[str, str]


def processes() -> Iterator[Process]:
    """Yield the processes of this machine."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words, environment = ((folder / name).read_text(errors="replace") for name in ("cmdline", "environ"))
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # the process has exited
            continue
        settings = dict(line.split("=", 1) for line in environment.split("\0") if "=" in line)
        yield Process(int(folder.name), parent, words.split("\0"), settings)


def cannot_have_slurm() -> str:
    """Return why SLURM cannot run on this machine; an empty string if it can."""
    if os.geteuid() != 0:
        return "starting SLURM's daemons needs root"
    path = os.environ["PATH"] + ":/usr/sbin"
    missing = [program for program in PROGRAMS if not shutil.which(program, path=path)]
    return f"no {', '.join(missing)}: apt-get install slurm-wlm munge" if missing else ""


class SlurmCluster:
    """Two nodes of two cores. The daemons stop at the end; files of the system are not touched."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        host = socket.gethostname()
        munge = self.folder / "munge"
        for each in (self.folder / "state", munge):
            each.mkdir(parents=True)
        munge.chmod(0o711)
        (munge / "key").write_bytes(os.urandom(128))
        (munge / "key").chmod(0o400)
        config = CONFIG.format(host=host, port=FIRST_PORT, folder=self.folder)
        for place, name in enumerate(NODES, 1):
            config += NODE.format(name=name, host=host, port=FIRST_PORT + place)
        (self.folder / "slurm.conf").write_text(config)
        os.environ["SLURM_CONF"] = str(self.folder / "slurm.conf")
        paths = {name: str(munge / name) for name in ("key", "socket", "pid", "log", "seed")}
        self._start(
            "munged", "munged", "--foreground", "--force", f"--key-file={paths['key']}", f"--socket={munge}/munge.sock",
            *(f"--{name}-file={paths[name]}" for name in ("pid", "log", "seed")),
        )  # fmt: skip
        self.soon(lambda: (munge / "munge.sock").exists())
        self._start("slurmctld", "slurmctld", "-D")
        for name in NODES:
            self._start(name, "slurmd", "-D", "-N", name)
        self.soon(self.idle)
        return self

    def __exit__(self, *_: object) -> None:
        self.ask("scancel", "--partition=train")
        for daemon in reversed(self._daemons.values()):
            daemon.send_signal(signal.SIGTERM)
        for daemon in self._daemons.values():
            try:
                daemon.wait(30)
            except subprocess.TimeoutExpired:  # it still waits for a task to exit
                daemon.kill()
                daemon.wait()
        del os.environ["SLURM_CONF"]

    def _start(self, name: str, program: str, *words: str) -> None:
        path = shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin")
        with (self.folder / f"{program}.out").open("ab") as log:
            daemon = subprocess.Popen([str(path), *words], stdout=log, stderr=log)  # noqa: S603 - our own command
        self._daemons[name] = daemon

    def idle(self) -> bool:
        """Return whether both nodes are idle."""
        return self.ask("sinfo", "--noheader", "--partition=train", "--states=idle", "--format=%D").strip() == "2"

    def lose(self, node: str) -> None:
        """Kill the daemon and all tasks of a node, and mark it as down instead of waiting for SlurmdTimeout."""
        tasks = [process for process in processes() if process.environment.get("SLURMD_NODENAME") == node]
        for pid in {self._daemons[node].pid, *(task.parent for task in tasks), *(task.pid for task in tasks)}:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._daemons[node].wait()
        self.ask("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=lost")

    def find(self, node: str) -> None:
        """Restart a lost node."""
        self._start(node, "slurmd", "-D", "-N", node)

    def ask(self, *command: str) -> str:
        """Run a command of SLURM and return its output."""
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout  # noqa: S603 - our own command

    def facts(self, job: str, name: str) -> list[str]:
        """Return a field of ``scontrol show job``, of a job or of each task of an array."""
        fields = self.ask("scontrol", "show", "job", job, "--oneliner").split()
        return [word.partition("=")[2] for word in fields if word.startswith(f"{name}=")]

    def states(self, job: str) -> list[str]:
        """Return the state of a job, or of each task of an array."""
        return self.facts(job, "JobState")

    def fact(self, job: str, name: str) -> str:
        """Return a field of ``scontrol show job`` of a single job."""
        (value,) = self.facts(job, name)
        return value

    def ended(self, *jobs: str, seconds: float = 400) -> list[str]:
        """Wait until no job is pending or running, and return the states of the jobs."""
        live = {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "PREEMPTED", "REQUEUED"}
        self.soon(lambda: not live & {state for job in jobs for state in self.states(job)}, seconds)
        return [state for job in jobs for state in self.states(job)]

    def soon(self, condition: Callable[[], bool], seconds: float = 30) -> None:
        """Wait until the condition holds. Raises AssertionError with the end of the daemons' logs if it does not."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                logs = [f"{path.name}: {path.read_text()[-600:]}" for path in self.folder.glob("*.log")]
                queue = self.ask("scontrol", "show", "job", "--oneliner")
                raise AssertionError("\n".join(["the condition did not become true", queue, *logs]))
            time.sleep(0.2)
