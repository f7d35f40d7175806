"""Commands and ranks that are forked from one process which has already imported PyTorch, DeepSpeed and diffusers.

Those imports cost about 7 CPU seconds a process. The forked processes run the real code: the launcher of ``e4t
pretrain``, its ranks with torchrun's environment variables, gloo, signals and exit codes; only ``exec`` and the imports
are left out. The warm process is multiprocessing's fork server: one for each pytest worker, started by the first test
that needs it.
"""

import atexit
import importlib
import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

TIMEOUT = 240.0
"""Seconds until a command and its ranks are killed and the test fails; ten times their time on an idle machine."""
PRELOAD = "tests.warm_imports"
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([PRELOAD])


class Result(NamedTuple):
    """Result of a finished command: exit code, standard output and standard error."""

    code: int
    out: str
    err: str


class WarmCommand:
    """``e4t <arguments>`` in a forked process, in the background; with the parts of ``Popen`` that tests use."""

    def __init__(self, *arguments: str | Path, env: Mapping[str, str] | None = None) -> None:
        self.arguments = [str(argument) for argument in arguments]
        self._output = tempfile.TemporaryDirectory(prefix="e4t-command-")
        self._out, self._err = (Path(self._output.name) / name for name in ("out", "err"))
        target = (self.arguments, dict(os.environ if env is None else env), str(Path.cwd()), self._out, self._err)
        self._process = _context.Process(target=_run_command, args=target)
        self._process.start()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Return the exit code, or None while the command runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal to the launcher."""
        os.kill(self.pid, number)

    def wait(self, timeout: float = TIMEOUT) -> Result:
        """Wait for the end. Kills the command and its ranks and raises TimeoutError if it does not come in time."""
        self._process.join(timeout)
        late = self._process.exitcode is None
        if late:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.join()
        result = Result(
            self._process.exitcode, *(path.read_text() if path.exists() else "" for path in (self._out, self._err))
        )
        if late:
            raise TimeoutError(f"e4t {' '.join(self.arguments)} did not end within {timeout:.0f} s: {result}")
        return result


def run_command(*arguments: str | Path, env: Mapping[str, str] | None = None, timeout: float = TIMEOUT) -> Result:
    """Run ``e4t <arguments>`` in a forked process to its end."""
    return WarmCommand(*arguments, env=env).wait(timeout)


def run_ranks(function: Callable[..., Any], world_size: int, *args: Any, timeout: float = TIMEOUT) -> list[Any]:
    """Call ``function(*args)`` in ``world_size`` forked ranks and return their results by rank.

    Each rank has torchrun's environment variables and no process group yet. Function, arguments and results are
    pickled. Raises RuntimeError with a rank's traceback if it fails, TimeoutError if one does not end; the others are
    killed.
    """
    with tempfile.TemporaryDirectory(prefix="e4t-ranks-") as folder:
        port = _free_port()
        results = [Path(folder) / f"rank_{rank}" for rank in range(world_size)]
        ranks = [
            _context.Process(target=_run_rank, args=(function, args, rank_environment(rank, world_size, port), result))
            for rank, result in enumerate(results)
        ]
        for process in ranks:
            process.start()
        try:
            return [_result_of(process, path, timeout) for process, path in zip(ranks, results, strict=True)]
        finally:
            for process in ranks:
                process.kill()
                process.join()


def rank_environment(rank: int, world_size: int, port: int) -> dict[str, str]:
    """Return this process's environment with the variables that torchrun sets for a rank."""
    variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
    rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    return dict(os.environ) | {name: str(value) for name, value in variables.items()} | rendezvous


def _result_of(process: Any, path: Path, timeout: float) -> Any:
    process.join(timeout)
    if process.exitcode is None:
        raise TimeoutError(f"{path.name} did not end within {timeout:.0f} s")
    if not path.exists():
        raise RuntimeError(f"{path.name} ended with exit code {process.exitcode} and without a result")
    failure, value = pickle.loads(path.read_bytes())  # noqa: S301 - our own file
    if failure:
        raise RuntimeError(f"{path.name} failed:\n{failure}")
    return value


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _run_rank(function: Callable[..., Any], args: tuple[Any, ...], environment: dict[str, str], path: Path) -> None:
    _take_environment(environment)
    try:
        outcome = ("", function(*args))
    except BaseException:
        outcome = (traceback.format_exc(), None)
    partial = path.with_suffix(".partial")
    partial.write_bytes(pickle.dumps(outcome))
    partial.rename(path)


def _run_command(arguments: list[str], environment: dict[str, str], folder: str, out: Path, err: Path) -> None:
    """Be the process that ``e4t <arguments>`` would be; the ranks that it starts are forks of it."""
    os.setpgid(0, 0)
    os.chdir(folder)
    for path, descriptor in ((out, 1), (err, 2)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, descriptor)
        os.close(file)
    launch = importlib.import_module("pipelines.runtime.launch")
    launch.subprocess = SimpleNamespace(Popen=_ForkedRank, TimeoutExpired=subprocess.TimeoutExpired)
    _be_command(arguments, environment)


def _be_command(arguments: list[str], environment: Mapping[str, str]) -> None:
    """Run the command and end this process with its exit code, as the interpreter would."""
    _take_environment(environment)
    sys.argv = ["e4t", *arguments]
    code = 1
    try:
        from pipelines.cli.main import main

        code = main()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    threading._shutdown()  # waits for threads that are no daemons
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def _take_environment(environment: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    if PRELOAD not in sys.modules:
        raise RuntimeError(f"the fork server has not imported {PRELOAD}; import it alone to see why")
    if threads := environment.get("OMP_NUM_THREADS"):  # read once by OpenMP, when it was loaded
        sys.modules["torch"].set_num_threads(int(threads))


class _ForkedRank(subprocess.Popen):
    """Popen for ``[python, -m, e4t, *arguments]`` that forks instead of starting a new interpreter."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        self._command, self._environment = list(command), env
        super().__init__(command, env=env)

    def _execute_child(self, *_: object) -> None:
        expected = [sys.executable, "-m", "e4t"]
        if self._command[:3] != expected:
            raise RuntimeError(f"only {expected} can be forked, not {self._command}")
        self._child_created = True
        self.pid = os.fork()
        if not self.pid:
            importlib.import_module("pipelines.runtime.launch").subprocess = subprocess
            _be_command(self._command[3:], self._environment)
