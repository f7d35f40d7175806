"""Checkpoint folders that are either complete or absent.

A checkpoint is written under a temporary name, flushed to disk, marked with ``COMPLETE`` and then renamed.
"""

import json
import logging
import os
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from data_prep.storage.atomic import sha256_file
from pipelines.errors import RunError

log = logging.getLogger("e4t")
COMPLETE = "COMPLETE"
"""File that marks a checkpoint as complete. It holds the sha256 of every other file, by relative path."""
_NAME = re.compile(r"step_(\d{8,})")


class CheckpointManager:
    """The checkpoints folder of a run. One process writes to it, in a thread, while training continues.

    Keeps the latest ``keep_last`` checkpoints and permanently those whose step is a multiple of ``keep_every``, if that
    is not 0. An error of the thread is raised by the next call of ``save`` or ``wait``.
    """

    def __init__(self, folder: Path, keep_last: int, keep_every: int = 0) -> None:
        self.folder, self.keep_last, self.keep_every = folder, keep_last, keep_every
        self._writer: threading.Thread | None = None
        self._error: Exception | None = None

    def list_complete(self) -> list[Path]:
        """Return the complete checkpoints, oldest first. Their files are not verified."""
        named = (path for path in self.folder.glob("step_*") if _NAME.fullmatch(path.name))
        return sorted((path for path in named if (path / COMPLETE).exists()), key=checkpoint_step)

    def latest(self) -> Path | None:
        """Return the latest checkpoint whose files match their digests, or None. Warns of damaged ones."""
        for path in reversed(self.list_complete()):
            problem = _find_problem(path)
            if problem is None:
                return path
            log.warning("checkpoint %s is damaged (%s); using an older one", path, problem)
        return None

    def save(self, step: int, write_fn: Callable[[Path], None]) -> None:
        """Start writing the checkpoint of ``step``: a thread calls ``write_fn`` with an empty folder.

        Waits for the previous checkpoint first, and raises RunError if that could not be written.
        """
        self.wait()
        self._writer = threading.Thread(target=self._write, args=(step, write_fn), name="checkpoint")
        self._writer.start()

    def wait(self) -> None:
        """Wait until the checkpoint being written is complete. Raises RunError if it could not be written."""
        if self._writer:
            self._writer.join()
        error, self._writer, self._error = self._error, None, None
        if error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise RunError(
                f"cannot write a checkpoint to {self.folder} ({reason}); free disk space and rerun the command: it "
                "resumes from the latest complete checkpoint"
            ) from error

    def _write(self, step: int, write_fn: Callable[[Path], None]) -> None:
        tmp_dir = self.folder / f".step_{step:08d}.partial"
        try:
            for stale in self.folder.glob(".step_*.partial"):
                shutil.rmtree(stale)
            tmp_dir.mkdir(parents=True)
            write_fn(tmp_dir)
            log.info("checkpoint %s", self._commit(tmp_dir, self.folder / f"step_{step:08d}"))
        except Exception as error:  # raised in the training thread, by wait()
            self._error = error
            shutil.rmtree(tmp_dir, ignore_errors=True)

    def _commit(self, tmp_dir: Path, final: Path) -> Path:
        files = sorted(path for path in tmp_dir.rglob("*") if path.is_file())
        digests = {str(path.relative_to(tmp_dir)): sha256_file(path) for path in files}
        for path in (*tmp_dir.rglob("*"), tmp_dir):
            _fsync(path)
        (tmp_dir / COMPLETE).write_text(json.dumps(digests, indent=1) + "\n")
        _fsync(tmp_dir / COMPLETE)
        _fsync(tmp_dir)
        if final.exists():
            self._remove(final)
        tmp_dir.rename(final)
        _fsync(self.folder)
        # Checkpoints of later steps are damaged, or training would have resumed from them. They are not counted here;
        # training replaces them when it reaches their steps.
        existing = [path for path in self.list_complete() if checkpoint_step(path) <= checkpoint_step(final)]
        for old in existing[: -self.keep_last]:
            if not self.keep_every or checkpoint_step(old) % self.keep_every:
                self._remove(old)
        return final

    def _remove(self, checkpoint: Path) -> None:
        """Rename the checkpoint before deleting it, so that an interrupted removal leaves no incomplete checkpoint."""
        trash = checkpoint.with_name(f".{checkpoint.name}.removed.partial")
        checkpoint.rename(trash)
        shutil.rmtree(trash)


def checkpoint_step(checkpoint: Path) -> int:
    """Return the optimizer step of a checkpoint folder, from its name."""
    return int(checkpoint.name.removeprefix("step_"))


def _find_problem(checkpoint: Path) -> str | None:
    try:
        digests = json.loads((checkpoint / COMPLETE).read_text())
        mismatched = [name for name, digest in digests.items() if sha256_file(checkpoint / name) != digest]
    except (OSError, ValueError, AttributeError) as error:
        return str(error)
    return f"sha256 of {mismatched[0]} differs" if mismatched else None


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
