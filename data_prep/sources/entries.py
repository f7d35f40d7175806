"""What every tree of files shares: its entries, their limit, its errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from data_prep.errors import DataError

MAX_FILE_BYTES = 512 * 2**20
"""A larger file is not taken for a picture, nor held in memory."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a folder holds."""

    name: str
    """Without the folder."""
    kind: Literal["folder", "file", "other"]
    """``other`` is what must not be opened: a pipe, a device, a link to nothing."""
    size: int
    """Bytes of a file."""
    stamp: str
    """Changes when the file does: size, and the time or tag that there is."""


@contextmanager
def as_oserror(where: str) -> Iterator[None]:
    """Turn what remote file systems raise, each in its own way, into an OSError."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{where}: {error!r}") from error


@contextmanager
def listing_errors(where: object) -> Iterator[None]:
    """Say in one line what cannot be listed."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or repr(error)
        raise DataError(f"source {where} cannot be listed ({reason}); make it readable or move it away") from error
