"""Start one process per device on this machine, as torchrun does, and return the exit code for the scheduler."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from data_prep.interrupts import INTERRUPT_SIGNALS, Interrupted, interrupt_exit_code
from e4t_errors import ConfigError
from pipelines.errors import EXIT_FAILURE, EXIT_OK, RunError
from pipelines.runtime.launcher import LAUNCHER_PID

POLL_SECONDS = 0.1
PEER_EXIT_GRACE_SECONDS = 15.0
"""Seconds that the other ranks get to notice the failure of one, and to end with an error of their own."""


def is_distributed_worker() -> bool:
    """Return whether a launcher (torchrun, srun, Kubernetes or ``launch``) started this process as a rank."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def num_nodes() -> int:
    """Return the number of machines that run this job, from ``NNODES``; 1 if it is not set."""
    return int(os.environ.get("NNODES") or 1)


def node_rank() -> int:
    """Return the index of this machine among them, from ``NODE_RANK``; 0 if it is not set."""
    return int(os.environ.get("NODE_RANK") or 0)


def set_deepspeed_accelerator() -> None:
    """Let DeepSpeed use the CPU if there is no GPU. Must be called before DeepSpeed is imported."""
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def launch(arguments: Sequence[str], nproc: int) -> int:
    """Run ``e4t <arguments>`` as ``nproc`` ranks, and return the exit code of the first that fails, or 0.

    When one rank fails, the others are ended. Raises Interrupted if a signal has ended them. To run on several
    machines, start the command on each of them with ``NNODES``, ``NODE_RANK``, ``MASTER_ADDR`` and ``MASTER_PORT`` set.
    """
    environment = os.environ | {
        "WORLD_SIZE": str(nproc * num_nodes()),
        "LOCAL_WORLD_SIZE": str(nproc),
        **_rendezvous_env(),
    }
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // nproc)))
    first_rank = node_rank() * nproc
    ranks = [{"RANK": str(first_rank + rank), "LOCAL_RANK": str(rank)} for rank in range(nproc)]
    return run_commands(arguments, [environment | each for each in ranks])


def run_commands(arguments: Sequence[str], environments: Sequence[Mapping[str, str]]) -> int:
    """Run ``e4t <arguments>`` with each environment, pass signals on, and return the exit code as ``launch`` does."""
    command = [sys.executable, "-m", "e4t", *arguments]
    processes: list[subprocess.Popen[bytes]] = []
    try:
        with _forwarded_signals(processes) as received:
            for environment in environments:
                variables = {**environment, LAUNCHER_PID: str(os.getpid())}
                processes.append(subprocess.Popen(command, env=variables))  # noqa: S603 - our own command
                for number in received:  # while this process was not in the list
                    _send_signal(processes[-1:], number)
            return _wait_for_ranks(processes, received)
    finally:
        for process in processes:
            process.kill()
            process.wait()


@contextmanager
def _forwarded_signals(processes: list[subprocess.Popen[bytes]]) -> Iterator[list[int]]:
    """Pass signals on to the processes in this block. Yields the numbers of those that have arrived."""
    received: list[int] = []

    def forward(number: int, _: object) -> None:
        received.append(number)
        _send_signal(processes, number)

    numbers = [*INTERRUPT_SIGNALS, signal.SIGUSR1, signal.SIGUSR2]
    previous = {number: signal.getsignal(number) for number in numbers}
    for number, handler in previous.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, forward)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _rendezvous_env() -> dict[str, str]:
    address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
    if num_nodes() == 1:
        return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port or str(free_port())}
    if not (address and port):
        raise ConfigError(
            f"NNODES is {num_nodes()}; set MASTER_ADDR and MASTER_PORT as well, to those of the first node"
        )
    return {"MASTER_ADDR": address, "MASTER_PORT": port}


def free_port() -> int:
    """Return an unused port of 127.0.0.1. Raises RunError if there is none."""
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])
    except OSError as error:
        raise RunError(
            f"no free port on 127.0.0.1 for the rendezvous of the ranks ({error.strerror}); stop other jobs or set "
            "MASTER_PORT"
        ) from error


def _send_signal(ranks: list[subprocess.Popen[bytes]], number: int) -> None:
    for rank in ranks:
        if rank.returncode is None:
            with suppress(ProcessLookupError):
                # Popen.send_signal would reap the process, whose exit code _wait_for_ranks needs.
                os.kill(rank.pid, number)


def _wait_for_ranks(ranks: list[subprocess.Popen[bytes]], received: Sequence[int]) -> int:
    """Return the exit code of the first rank that fails, or 0. Waits for the ranks in the order in which they end.

    Raises Interrupted if a signal has ended it that was received here.
    """
    running = {rank.pid: rank for rank in ranks}
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)  # a wait that blocks could miss signals that other threads receive
        rank = running.pop(pid, None)
        if rank is None:
            time.sleep(POLL_SECONDS)
            continue
        rank.returncode = code = os.waitstatus_to_exitcode(status)
        if code:
            deadline = time.monotonic() + PEER_EXIT_GRACE_SECONDS
            for other in running.values():
                with suppress(subprocess.TimeoutExpired):
                    other.wait(max(0.0, deadline - time.monotonic()))
            return _failure_code(pid, code, received)
    return EXIT_OK


def _failure_code(pid: int, code: int, received: Sequence[int]) -> int:
    """Return the exit code for a rank that failed with ``code``, and print a line if a signal has ended it."""
    by_code = {interrupt_exit_code(number): number for number in INTERRUPT_SIGNALS}
    number = -code if code < 0 else by_code.get(code, 0)
    if not number:
        return code
    if number in received and number in INTERRUPT_SIGNALS:
        raise Interrupted(number)
    sys.stderr.write(f"e4t: rank process {pid} ended by {signal.Signals(number).name}; rerun the command to resume\n")
    return EXIT_FAILURE
