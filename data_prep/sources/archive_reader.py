"""What is in archives: listed from headers and directories, read in place."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from data_prep.errors import DataError
from data_prep.records import Record
from data_prep.sources.filesystem import MAX_FILE_BYTES, Tree, as_oserror
from data_prep.sources.members import Members, Place
from data_prep.sources.names import CAPTION_BYTES, first_line
from data_prep.sources.sequential import ForwardReader, LastOpened
from data_prep.sources.tar import COMPRESSED, decompressed, list_tar
from data_prep.sources.zip import list_zip, read_zip


class ArchiveReader:
    """Lists and reads the archives under a folder. Any number of threads may read."""

    def __init__(self, tree: Tree) -> None:
        self._tree, self._streams = tree, LastOpened[ForwardReader]()

    def __reduce__(self) -> tuple[type["ArchiveReader"], tuple[Tree]]:
        return type(self), (self._tree,)

    def members(self, name: str) -> Members:
        """What the archive holds. Raises DataError if the file cannot be had."""
        with self.opened(name) as file:
            yield from list_zip(file) if _is_zip(name) else list_tar(file, self.stamp(name))

    def picture(self, record: Record) -> bytes:
        """The picture that was listed. Raises OSError if it is not as the archive declares it."""
        name, own, _ = _places(record)
        return self._read(name, own, MAX_FILE_BYTES)

    def caption(self, record: Record) -> str | None:
        """The first line of the text beside the picture, else the record's own. Raises OSError."""
        name, _, beside = _places(record)
        return (first_line(self._read(name, beside, CAPTION_BYTES)) if beside else None) or record.caption

    @contextmanager
    def opened(self, name: str) -> Iterator[BinaryIO]:
        """The zip, or the tar that is in the file. Raises DataError if the file cannot be had, then or later."""
        where = f"{self._tree.url}/{name}"
        with _failing(where):
            file = self._tree.open(name)
        with file:
            checked = cast("BinaryIO", _Checked(file, where))
            if name.lower().endswith(COMPRESSED):
                with decompressed(checked, name.lower()) as stream:
                    yield stream
            else:
                yield checked

    def stamp(self, name: str) -> str:
        """Changes when the archive does. Raises DataError."""
        with _failing(f"{self._tree.url}/{name}"):
            return self._tree.entry(name).stamp

    def _read(self, name: str, place: Place, limit: int) -> bytes:
        """At most ``limit`` bytes of a member."""
        with as_oserror(name):
            if _is_zip(name):
                return read_zip(lambda offset, size: self._tree.read(name, size, offset), place, limit)
            offset, size = place[0], min(place[1], limit)
            if name.lower().endswith(COMPRESSED):
                data = self._streams.get(name, lambda: ForwardReader(lambda: self.opened(name))).read(offset, size)
            else:
                data = self._tree.read(name, size, offset)
            if len(data) < size:
                raise OSError("the archive ends within the member")
            return data


def _is_zip(name: str) -> bool:
    return name.lower().endswith(".zip")


def _places(record: Record) -> tuple[str, Place, Place]:
    """Archive, place of the picture, and place of its caption, which is empty if there is none."""
    name, *numbers = record.location
    places, width = tuple(int(number) for number in numbers), 4 if _is_zip(str(name)) else 2
    return str(name), places[:width], places[width:]


@contextmanager
def _failing(where: str) -> Iterator[None]:
    """A file that cannot be had is no damaged archive: a set must not shrink because a network failed."""
    try:
        with as_oserror(where):
            yield
    except OSError as error:
        raise DataError(f"source {where} cannot be read ({error.strerror or error}); try again, or move it") from error


class _Checked(io.RawIOBase):
    """The file, whose own errors are DataError: those of whoever reads it are about what is in it."""

    def __init__(self, file: BinaryIO, where: str) -> None:
        self._file, self._where = file, where

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        with _failing(self._where):
            return self._file.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()
