"""Concepts that were tuned before, by the digest of what made them; the ones not used for longest make room."""

import os
import shutil
from pathlib import Path

from data_prep.files import shared_folder


class ConceptCache:
    """A folder of concept folders that together take at most ``bytes``; 0 keeps none."""

    def __init__(self, folder: Path, bytes_: int) -> None:
        self._folder, self._bytes = folder, bytes_

    def take(self, key: str, output: Path) -> bool:
        """Put a kept concept at ``output``; False if there is none."""
        kept = self._folder / key
        if not kept.is_dir():
            return False
        os.utime(kept)
        _link(kept, output)
        return True

    def keep(self, key: str, concept: Path) -> None:
        """Keep a concept folder, without a second copy where the disk can."""
        if self._bytes:
            _link(concept, self._folder / key)
            self._make_room()

    def _make_room(self) -> None:
        newest_first = sorted(self._folder.glob("[0-9a-f]*"), key=lambda kept: kept.stat().st_mtime, reverse=True)
        total = 0
        for kept in newest_first:
            total += sum(file.stat().st_size for file in kept.iterdir())
            if total > self._bytes:
                shutil.rmtree(kept, ignore_errors=True)


def _link(source: Path, place: Path) -> None:
    with shared_folder(place) as folder:
        for file in source.iterdir():
            try:
                os.link(file, folder / file.name)
            except OSError:  # another disk
                shutil.copyfile(file, folder / file.name)
