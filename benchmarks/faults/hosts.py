"""Hosts: this machine, or several network namespaces on it, each with a name, an address and a link.

Several hosts need root and ``ip`` (iproute2). They share one file system, like the hosts of a cluster.
"""

import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

TAG = "E4T_FAULTS_HOST"
"""Environment variable with the tag of the host, of every process started on it and of its children."""
INTERFACE = "eth0"
SUBNET = "10.111.0"

# Waits until the program that created the network closes the pipe or ends, even if it is killed.
CLEAN_UP = """
cat > /dev/null
for namespace in "$@"; do
    while pids=$(ip netns pids "$namespace") && [ -n "$pids" ]; do kill -9 $pids; sleep 0.05; done
    ip netns del "$namespace"
    rm -rf "/etc/netns/$namespace"
done
ip link del "$0"
"""


def missing_requirement() -> str:
    """Return why this machine cannot run several hosts, or an empty string if it can."""
    if shutil.which("ip") is None:
        return "several hosts need `ip` (apt-get install iproute2)"
    if os.geteuid() != 0:
        return "several hosts need root, for network namespaces"
    probe = f"e4tp{secrets.token_hex(3)}"
    command = ["ip", "netns", "add", probe]
    result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    if result.returncode:
        return f"cannot create network namespaces: {result.stderr.strip()}"
    _ip("netns", "del", probe)
    return ""


@dataclass(frozen=True)
class Host:
    """A host that runs processes."""

    name: str
    tag: str
    """Value of ``TAG`` in the environment of its processes."""
    namespace: str | None = None
    """Name of its network namespace; None for this machine, which has no link to cut."""
    bridge: str | None = None
    """Name of the bridge that connects the hosts. The bridge's port to this host has the name of the namespace."""

    @classmethod
    def here(cls) -> Self:
        """Return this machine as a host."""
        return cls("here", f"here-{secrets.token_hex(4)}")

    def start(
        self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a process whose output is appended to ``log``."""
        arguments = list(command)
        settings = {TAG: self.tag, "OMP_NUM_THREADS": "1"}
        if self.namespace:
            named = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', self.name]
            arguments = ["ip", "netns", "exec", self.namespace, *named, *arguments]
            settings["GLOO_SOCKET_IFNAME"] = INTERFACE
        with log.open("ab") as output:
            return subprocess.Popen(  # noqa: S603 - our own command
                arguments,
                env=os.environ | settings | dict(environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def processes(self) -> dict[int, dict[str, str]]:
        """Return id and environment of every process on this host."""
        processes = {}
        for folder in Path("/proc").iterdir():
            if folder.name.isdecimal() and (environment := _environment(folder)).get(TAG) == self.tag:
                processes[int(folder.name)] = environment
        return processes

    def ranks(self) -> dict[int, int]:
        """Return the process id of each rank on this host."""
        processes = self.processes()
        ranks = {pid: int(environment["RANK"]) for pid, environment in processes.items() if "RANK" in environment}
        return {rank: pid for pid, rank in ranks.items() if _parent(pid) not in ranks}

    def kill(self) -> None:
        """Send SIGKILL to every process until none is left."""
        while processes := self.processes():
            for pid in processes:
                send(pid, signal.SIGKILL)

    def cut(self) -> None:
        """Disconnect the host: packets are lost, and no process is notified."""
        _ip("link", "set", "dev", str(self.namespace), "nomaster")

    def restore(self) -> None:
        """Connect the host again."""
        _ip("link", "set", "dev", str(self.namespace), "master", str(self.bridge))


class Network:
    """Hosts ``host0``, ``host1``, ... on one bridge, which resolve one another's names.

    They are removed, with every process on them, when the ``with`` block or this program ends.
    """

    def __init__(self, hosts: int) -> None:
        self.name = f"e4t{secrets.token_hex(3)}"
        self.hosts = tuple(
            Host(f"host{i}", f"{self.name}-host{i}", f"{self.name}h{i}", self.name) for i in range(hosts)
        )

    def __enter__(self) -> Self:
        namespaces = [str(host.namespace) for host in self.hosts]
        self._cleanup = subprocess.Popen(  # noqa: S603
            ["sh", "-c", CLEAN_UP, self.name, *namespaces],  # noqa: S607
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            _ip("link", "add", self.name, "type", "bridge")
            _ip("link", "set", "dev", self.name, "up")
            for number, host in enumerate(self.hosts):
                self._connect(host, f"{SUBNET}.{number + 1}")
        except BaseException:
            self._remove()
            raise
        return self

    def _connect(self, host: Host, address: str) -> None:
        namespace = str(host.namespace)
        names = "".join(f"{SUBNET}.{number + 1} {peer.name}\n" for number, peer in enumerate(self.hosts))
        files = Path("/etc/netns") / namespace
        files.mkdir(parents=True)
        (files / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
        _ip("netns", "add", namespace)
        _ip("link", "add", namespace, "type", "veth", "peer", "name", INTERFACE, "netns", namespace)
        _ip("link", "set", "dev", namespace, "master", self.name, "up")
        _ip("-n", namespace, "link", "set", "dev", "lo", "up")
        _ip("-n", namespace, "address", "add", f"{address}/24", "dev", INTERFACE)
        _ip("-n", namespace, "link", "set", "dev", INTERFACE, "up")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def _remove(self) -> None:
        self._cleanup.communicate()


def send(pid: int, number: signal.Signals) -> bool:
    """Send a signal; returns whether the process exists."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _environment(process: Path) -> dict[str, str]:
    try:
        arguments = (process / "environ").read_bytes().split(b"\0")
    except OSError:  # the process has ended or belongs to another user
        return {}
    pairs = (word.decode(errors="replace").partition("=") for word in arguments)
    return {name: value for name, _, value in pairs}


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _ip(*arguments: str) -> None:
    try:
        subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)  # noqa: S603, S607
    except subprocess.CalledProcessError as error:
        raise OSError(f"ip {' '.join(arguments)}: {error.stderr.strip()}") from error
