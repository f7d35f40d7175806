"""Checkpoints that are whole or not there: written under another name, ``COMPLETE`` last, renamed."""

import os
import re
import shutil
from pathlib import Path

COMPLETE = "COMPLETE"
_NAME = re.compile(r"step_(\d{8})")


class Checkpoints:
    """The checkpoints folder of a run: the newest ``keep`` stay, and for good those of every ``keep_every``-th step.

    With many ranks, one calls ``begin`` and ``commit``, with everyone waiting in between.
    """

    def __init__(self, folder: Path, keep: int, keep_every: int = 0) -> None:
        self.folder, self.keep, self.keep_every = folder, keep, keep_every

    def complete(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        named = (path for path in self.folder.glob("step_*") if _NAME.fullmatch(path.name))
        return sorted(path for path in named if (path / COMPLETE).exists())

    def newest(self) -> Path | None:
        """The newest whole checkpoint."""
        return next(reversed(self.complete()), None)

    def aside(self, step: int) -> Path:
        """Where the checkpoint of ``step`` is written before it is whole."""
        return self.folder / f".step_{step:08d}.partial"

    def begin(self, step: int) -> None:
        """Make the folder to write into; what interrupted saves have left is removed."""
        for stale in self.folder.glob(".step_*.partial"):
            shutil.rmtree(stale)
        self.aside(step).mkdir(parents=True)

    def commit(self, step: int) -> Path:
        """Flush everything to the disk, mark it complete, rename, and remove old ones."""
        aside, final = self.aside(step), self.folder / f"step_{step:08d}"
        for path in (*aside.rglob("*"), aside):
            _flush(path)
        (aside / COMPLETE).touch()
        _flush(aside / COMPLETE)
        _flush(aside)
        if final.exists():
            self._remove(final)
        aside.rename(final)
        _flush(self.folder)
        for old in self.complete()[: -self.keep]:
            if not self.keep_every or int(old.name.removeprefix("step_")) % self.keep_every:
                self._remove(old)
        return final

    def _remove(self, checkpoint: Path) -> None:
        """Under its name a checkpoint is whole, so it loses the name first."""
        doomed = checkpoint.with_name(f".{checkpoint.name}.removed.partial")
        checkpoint.rename(doomed)
        shutil.rmtree(doomed)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
