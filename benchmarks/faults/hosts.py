"""Hosts: this machine itself, or several on it as network namespaces, each with a name, an address and a link.

Several need root and ``ip`` (iproute2). They share the file system, as the hosts of a cluster do with a mounted one.
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
"""In the environment of every process that was started on a host, and of its children: names the host."""
INTERFACE = "eth0"
SUBNET = "10.111.0"

# Waits until the program that made the network closes the pipe, or is gone, however it went.
CLEAN_UP = """
cat > /dev/null
for namespace in "$@"; do
    while pids=$(ip netns pids "$namespace") && [ -n "$pids" ]; do kill -9 $pids; sleep 0.05; done
    ip netns del "$namespace"
    rm -rf "/etc/netns/$namespace"
done
ip link del "$0"
"""


def cannot_have_several() -> str:
    """Why there can be no network of hosts here; empty if there can."""
    if shutil.which("ip") is None:
        return "several hosts need `ip` (apt-get install iproute2)"
    if os.geteuid() != 0:
        return "several hosts need root, for network namespaces"
    probe = f"e4tp{secrets.token_hex(3)}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)  # noqa: S603, S607
    if made.returncode:
        return f"no network namespaces here: {made.stderr.strip()}"
    _ip("netns", "del", probe)
    return ""


@dataclass(frozen=True)
class Host:
    """Something that runs processes."""

    name: str
    tag: str
    """Tells its processes from everybody else's."""
    namespace: str | None = None
    """Its network; without one it is this machine itself and has no link to cut."""
    bridge: str | None = None
    """That connects the hosts; the end of its cable there has the namespace's name."""

    @classmethod
    def here(cls) -> Self:
        """This machine."""
        return cls("here", f"here-{secrets.token_hex(4)}")

    def start(
        self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a process; what it says is appended to the log."""
        words = list(command)
        settings = {TAG: self.tag, "OMP_NUM_THREADS": "1"}
        if self.namespace:
            named = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', self.name]
            words = ["ip", "netns", "exec", self.namespace, *named, *words]
            settings["GLOO_SOCKET_IFNAME"] = INTERFACE
        with log.open("ab") as output:
            return subprocess.Popen(  # noqa: S603 - our own words
                words,
                env=os.environ | settings | dict(environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def processes(self) -> dict[int, dict[str, str]]:
        """Id and environment of every process on it."""
        found = {}
        for folder in Path("/proc").iterdir():
            if folder.name.isdecimal() and (environment := _environment(folder)).get(TAG) == self.tag:
                found[int(folder.name)] = environment
        return found

    def ranks(self) -> dict[int, int]:
        """Process id of each rank on it."""
        processes = self.processes()
        ranks = {pid: int(environment["RANK"]) for pid, environment in processes.items() if "RANK" in environment}
        return {rank: pid for pid, rank in ranks.items() if _parent(pid) not in ranks}

    def kill(self) -> None:
        """``kill -9`` for every process, until none is left."""
        while processes := self.processes():
            for pid in processes:
                send(pid, signal.SIGKILL)

    def cut(self) -> None:
        """Pull the cable: nothing comes through, and nobody is told."""
        _ip("link", "set", "dev", str(self.namespace), "nomaster")

    def restore(self) -> None:
        """Plug it in again."""
        _ip("link", "set", "dev", str(self.namespace), "master", str(self.bridge))


class Network:
    """Hosts ``host0``, ``host1``, ... on a bridge of their own; each finds the others by name.

    They are taken down, with every process on them, when the ``with`` ends or when this program is gone.
    """

    def __init__(self, hosts: int) -> None:
        self.name = f"e4t{secrets.token_hex(3)}"
        self.hosts = tuple(
            Host(f"host{i}", f"{self.name}-host{i}", f"{self.name}h{i}", self.name) for i in range(hosts)
        )

    def __enter__(self) -> Self:
        namespaces = [str(host.namespace) for host in self.hosts]
        self._janitor = subprocess.Popen(  # noqa: S603
            ["sh", "-c", CLEAN_UP, self.name, *namespaces],  # noqa: S607
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            _ip("link", "add", self.name, "type", "bridge")
            _ip("link", "set", "dev", self.name, "up")
            for number, host in enumerate(self.hosts):
                self._plug_in(host, f"{SUBNET}.{number + 1}")
        except BaseException:
            self._take_down()
            raise
        return self

    def _plug_in(self, host: Host, address: str) -> None:
        namespace = str(host.namespace)
        names = "".join(f"{SUBNET}.{number + 1} {one.name}\n" for number, one in enumerate(self.hosts))
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
        self._take_down()

    def _take_down(self) -> None:
        self._janitor.communicate()


def send(pid: int, number: signal.Signals) -> bool:
    """Send a signal; tells whether there was anybody to get it."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _environment(process: Path) -> dict[str, str]:
    try:
        words = (process / "environ").read_bytes().split(b"\0")
    except OSError:  # gone, or somebody else's
        return {}
    pairs = (word.decode(errors="replace").partition("=") for word in words)
    return {name: value for name, _, value in pairs}


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _ip(*words: str) -> None:
    try:
        subprocess.run(["ip", *words], check=True, capture_output=True, text=True)  # noqa: S603, S607 - our own words
    except subprocess.CalledProcessError as error:
        raise OSError(f"ip {' '.join(words)}: {error.stderr.strip()}") from error
