"""The network namespaces behave like hosts, which the tests on them rely on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.faults.hosts import INTERFACE, Host, Network, missing_requirement

pytestmark = pytest.mark.cluster

LISTEN = """
import socket
server = socket.create_server(("host1", 5000))
connection, _ = server.accept()
print("connected", flush=True)
while word := connection.recv(100):
    print(word.decode(), flush=True)
"""
SPEAK = """
import socket, time
while True:
    try:
        connection = socket.create_connection(("host1", 5000))
        break
    except ConnectionRefusedError:
        time.sleep(0.05)
for number in range(1000):
    connection.sendall(f"<{number}>".encode())
    time.sleep(0.02)
"""
OWNER = """
import sys, time
from pathlib import Path
from benchmarks.faults.hosts import Network
with Network(1) as network:
    network.hosts[0].start(["sleep", "1000"], Path(sys.argv[1]))
    print(network.name, flush=True)
    time.sleep(1000)
"""


def soon(condition: Callable[[], bool]) -> bool:
    """Wait for the condition for up to 20 s, and return whether it holds."""
    end = time.monotonic() + 20
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def test_a_host_has_its_own_name_and_resolves_the_other(network: Network, tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert network.hosts[0].start(["sh", "-c", "hostname; getent hosts host1"], log).wait() == 0
    name, address = log.read_text().splitlines()
    assert name == "host0"
    assert address.split() == ["10.111.0.2", "host1"]


def test_gloo_uses_the_interface_of_the_network(network: Network, tmp_path: Path) -> None:
    network.hosts[0].start(["printenv", "GLOO_SOCKET_IFNAME"], tmp_path / "log").wait()
    assert (tmp_path / "log").read_text() == f"{INTERFACE}\n"


def test_a_cut_link_delivers_nothing_until_it_is_restored(network: Network, tmp_path: Path) -> None:
    here, there = network.hosts
    received, log = tmp_path / "received", tmp_path / "log"
    there.start([sys.executable, "-c", LISTEN], received)
    here.start([sys.executable, "-c", SPEAK], log)
    try:
        assert soon(lambda: "<" in received.read_text())
        there.cut()
        time.sleep(0.2)  # packets in flight have arrived
        before = received.stat().st_size
        time.sleep(1)
        assert received.stat().st_size == before
        there.restore()
        assert soon(lambda: received.stat().st_size > before)
    finally:
        here.kill()
        there.kill()


def test_killing_a_host_kills_all_its_processes_and_no_others(network: Network, tmp_path: Path) -> None:
    here, there = network.hosts
    bystander = here.start(["sleep", "1000"], tmp_path / "here")
    there.start(["sh", "-c", "sleep 1000 & sleep 1000"], tmp_path / "there")
    try:
        assert soon(lambda: len(there.processes()) == 3)
        there.kill()
        assert not there.processes()
        assert bystander.poll() is None
    finally:
        here.kill()
        bystander.wait()


def test_ranks_are_distinguished_from_their_launcher(tmp_path: Path) -> None:
    here = Host.here()
    here.start(["sh", "-c", "RANK=0 sleep 1000 & RANK=1 sleep 1000 & sleep 1000"], tmp_path / "log")
    try:
        assert soon(lambda: sorted(here.ranks()) == [0, 1])
    finally:
        here.kill()


@pytest.mark.skipif(bool(missing_requirement()), reason=missing_requirement())
def test_a_network_is_removed_when_its_owner_is_killed(tmp_path: Path) -> None:
    owner = subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-c", OWNER, str(tmp_path / "log")],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert owner.stdout is not None
    name = owner.stdout.readline().strip()
    traces = [Path("/sys/class/net") / name, Path("/run/netns") / f"{name}h0", Path("/etc/netns") / f"{name}h0"]
    assert all(path.exists() for path in traces)
    owner.send_signal(signal.SIGKILL)
    owner.communicate()
    assert soon(lambda: not any(path.exists() for path in traces))
    assert not Host("host0", f"{name}-host0").processes()
