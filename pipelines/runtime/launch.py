"""Start one process a device on this machine, as torchrun would, and give back what a scheduler should see."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

from e4t import ConfigError
from pipelines.errors import EXIT_FAILURE, RunError

PEER_EXIT_GRACE_SECONDS = 15.0
"""For ranks whose peer is gone, to find out and say so."""


def is_distributed_worker() -> bool:
    """Whether somebody else (torchrun, srun, Kubernetes) has already started the ranks."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def num_nodes() -> int:
    """Of how many machines this is one, each of which runs ``e4t`` itself: ``NNODES``, 1 unless set."""
    return int(os.environ.get("NNODES") or 1)


def node_rank() -> int:
    """Which of them this is: ``NODE_RANK``, counted from 0."""
    return int(os.environ.get("NODE_RANK") or 0)


def set_deepspeed_accelerator() -> None:
    """Tell DeepSpeed, before it is imported, which device there is: without a GPU it would not look for a CPU."""
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def launch(arguments: Sequence[str], nproc: int) -> int:
    """Run ``e4t <arguments>`` as ``processes`` ranks; the first that fails ends the others and gives the exit code.

    Several machines do so at once with ``NNODES``, ``NODE_RANK``, ``MASTER_ADDR`` and ``MASTER_PORT`` set.
    """
    environment = os.environ | {
        "WORLD_SIZE": str(nproc * num_nodes()),
        "LOCAL_WORLD_SIZE": str(nproc),
        **_rendezvous_env(),
    }
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // nproc)))
    command = [sys.executable, "-m", "e4t", *arguments]
    first_rank = node_rank() * nproc
    ranks = [
        subprocess.Popen(command, env=environment | {"RANK": str(first_rank + rank), "LOCAL_RANK": str(rank)})  # noqa: S603 - our own command
        for rank in range(nproc)
    ]
    previous = {
        number: signal.signal(number, lambda number, _: _forward_signal(ranks, number))
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
    }
    try:
        return _wait_for_ranks(ranks)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        for rank in ranks:
            rank.kill()
            rank.wait()


def _rendezvous_env() -> dict[str, str]:
    address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
    if num_nodes() == 1:
        return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port or str(free_port())}
    if not (address and port):
        raise ConfigError(f"NNODES is {num_nodes()}; set MASTER_ADDR and MASTER_PORT, too, to where the first node is")
    return {"MASTER_ADDR": address, "MASTER_PORT": port}


def free_port() -> int:
    """A port that nobody listens on at 127.0.0.1. Raises RunError if there is none."""
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])
    except OSError as error:
        raise RunError(
            f"no free port on 127.0.0.1 for the ranks to meet ({error.strerror}); close other jobs or set MASTER_PORT"
        ) from error


def _forward_signal(ranks: list[subprocess.Popen[bytes]], number: int) -> None:
    for rank in ranks:
        if rank.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(rank.pid, number)  # Popen's own method would take the exit code that ``_wait`` waits for


def _wait_for_ranks(ranks: list[subprocess.Popen[bytes]]) -> int:
    """Wait in the order in which ranks end; once one has failed, the others soon fail too, or never end."""
    running = {rank.pid: rank for rank in ranks}
    while running:
        pid, status = os.wait()
        rank = running.pop(pid, None)
        if rank is None:
            continue
        rank.returncode = os.waitstatus_to_exitcode(status)
        if rank.returncode:
            if rank.returncode < 0:
                name = signal.Signals(-rank.returncode).name
                sys.stderr.write(f"e4t: a rank (process {pid}) was ended by {name}; the same command goes on\n")
            deadline = time.monotonic() + PEER_EXIT_GRACE_SECONDS
            for other in running.values():
                with suppress(subprocess.TimeoutExpired):
                    other.wait(max(0.0, deadline - time.monotonic()))
            return rank.returncode if rank.returncode > 0 else EXIT_FAILURE
    return 0
