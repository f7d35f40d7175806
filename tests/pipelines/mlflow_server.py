"""A real MLflow server for tests, which can be killed and started again."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from tests.shared import copy_mlflow_database


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    """Poll until the condition holds; fail after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


class Server:
    """A real MLflow server on this machine, which can be killed and started again on the same port and store."""

    def __init__(self, folder: Path) -> None:
        copy_mlflow_database(folder)
        port = free_port()
        self.uri = f"http://127.0.0.1:{port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
            "--backend-store-uri", f"sqlite:///{folder}/mlflow.db",
            "--artifacts-destination", str(folder / "artifacts"),
        ]  # fmt: skip
        self._log = folder / "server.log"

    def start(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                self._command, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        wait_for(self.is_up)

    def is_up(self) -> bool:
        try:
            with urlopen(f"{self.uri}/health", timeout=5) as response:  # noqa: S310 - our own server
                return bool(response.status == 200)
        except (URLError, OSError):
            return False

    def kill(self) -> None:
        if self._process:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
            wait_for(lambda: not self.is_up())
