"""Reading what runs leave, comparing checkpoints, and runs in the background."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.warm_process import Result, WarmCommand

E4T = Callable[..., tuple[int, str, str]]
FIRST, LAST = "checkpoints/step_00000002", "checkpoints/step_00000004"
"""The checkpoints of the small recipe."""


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def engine_of(run: Path) -> dict:
    """Return the newest line of ``metrics.jsonl`` that describes the engine."""
    return next(line for line in reversed(lines(run / "metrics.jsonl")) if "engine" in line)


def tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    return {
        f"{file.parent.name}/{file.stem}/{name}": tensor
        for file in checkpoint.rglob("*.safetensors")
        for name, tensor in load_file(file).items()
    }


def same(one: Path, other: Path) -> bool:
    """Return whether two checkpoints hold the same bits: weights, moments, everything."""
    a, b = tensors(one), tensors(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class BackgroundRun:
    """``e4t pretrain`` on two ranks in the background, forked from the warm process or, with ``real``, started anew."""

    def __init__(self, recipe: Path, *options: str, real: bool = False) -> None:
        arguments = ["pretrain", "--recipe", str(recipe), "--nproc", "2", *options]
        self.process = _RealCommand(*arguments) if real else WarmCommand(*arguments)
        self.run = recipe.parent / "runs" / "small"
        self._steps_before = len(self._steps())

    def ranks(self) -> list[int]:
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def after_steps(self, count: int) -> "BackgroundRun":
        """Wait until ``count`` steps are complete, in addition to those of earlier attempts."""
        while len(self._steps()) < self._steps_before + count:
            assert self.process.poll() is None, self.process.wait()
            time.sleep(0.05)
        return self

    def _steps(self) -> list[dict]:
        record = self.run / "metrics.jsonl"
        return [line for line in lines(record) if "images_per_second" in line] if record.exists() else []

    def end(self) -> Result:
        return self.process.wait()


class _RealCommand:
    """``python -m e4t <arguments>``, with the interface of ``WarmCommand``."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "e4t", *arguments]
        self._process = subprocess.Popen(  # noqa: S603 - our own command
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.poll()

    def wait(self, timeout: float = 280.0) -> Result:
        try:
            out, err = self._process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            raise
        return Result(self._process.returncode, out, err)
