"""Checkpoints that are whole or not there: written under another name, ``COMPLETE`` last, renamed."""

import os
import re
import shutil
from pathlib import Path

COMPLETE = "COMPLETE"
_NAME = re.compile(r"step_(\d{8})")


class Checkpoints:
    """The checkpoints folder of a run. With many ranks, one calls ``begin`` and ``commit``, with everyone waiting in between."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep

    def complete(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        return sorted(path for path in self.folder.glob("step_*") if _NAME.fullmatch(path.name) and (path / COMPLETE).exists())

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
        for path in aside.rglob("*"):
            if path.is_file():
                _flush(path)
        (aside / COMPLETE).touch()
        _flush(aside / COMPLETE)
        shutil.rmtree(final, ignore_errors=True)
        aside.rename(final)
        _flush(self.folder)
        for old in self.complete()[: -self.keep]:
            shutil.rmtree(old)
        return final


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
