"""Checkpoints that are whole or not there: written under another name, flushed, ``COMPLETE`` last, renamed."""

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
"""The file that makes a folder a checkpoint; it holds every other file's sha256."""
_NAME = re.compile(r"step_(\d{8,})")


class CheckpointManager:
    """The checkpoints folder of a run: the newest ``keep`` stay, and for good those of every ``keep_every``-th step.

    One process writes, in a thread, while training goes on; what failed there is raised by the next call.
    """

    def __init__(self, folder: Path, keep_last: int, keep_every: int = 0) -> None:
        self.folder, self.keep_last, self.keep_every = folder, keep_last, keep_every
        self._writer: threading.Thread | None = None
        self._error: Exception | None = None

    def list_complete(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        named = (path for path in self.folder.glob("step_*") if _NAME.fullmatch(path.name))
        return sorted((path for path in named if (path / COMPLETE).exists()), key=_step)

    def latest(self) -> Path | None:
        """The newest whole checkpoint whose files are as they were written; others are passed by with a warning."""
        for path in reversed(self.list_complete()):
            problem = _find_problem(path)
            if problem is None:
                return path
            log.warning("checkpoint %s is damaged (%s); taking an older one", path, problem)
        return None

    def save(self, step: int, write_fn: Callable[[Path], None]) -> None:
        """Begin to write the checkpoint of ``step``, which ``fill`` puts into the folder it is given.

        Raises RunError if the checkpoint before could not be written.
        """
        self.wait()
        self._writer = threading.Thread(target=self._write, args=(step, write_fn), name="checkpoint")
        self._writer.start()

    def wait(self) -> None:
        """Until what has been begun is whole. Raises RunError if it could not be written."""
        if self._writer:
            self._writer.join()
        error, self._writer, self._error = self._error, None, None
        if error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise RunError(
                f"no checkpoint can be written to {self.folder} ({reason}); make room there and run the same command "
                "again: it goes on from the newest complete one"
            ) from error

    def _write(self, step: int, write_fn: Callable[[Path], None]) -> None:
        tmp_dir = self.folder / f".step_{step:08d}.partial"
        try:
            for stale in self.folder.glob(".step_*.partial"):
                shutil.rmtree(stale)
            tmp_dir.mkdir(parents=True)
            write_fn(tmp_dir)
            log.info("checkpoint %s", self._commit(tmp_dir, self.folder / f"step_{step:08d}"))
        except Exception as error:  # raised where somebody listens
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
        # Later ones were damaged, or this would not be written now: they are replaced when training is there again.
        existing = [path for path in self.list_complete() if _step(path) <= _step(final)]
        for old in existing[: -self.keep_last]:
            if not self.keep_every or _step(old) % self.keep_every:
                self._remove(old)
        return final

    def _remove(self, checkpoint: Path) -> None:
        """Under its name a checkpoint is whole, so it loses the name first."""
        trash = checkpoint.with_name(f".{checkpoint.name}.removed.partial")
        checkpoint.rename(trash)
        shutil.rmtree(trash)


def _step(checkpoint: Path) -> int:
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
