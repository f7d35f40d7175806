"""List archives from their headers or directories and read members in place."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from data_prep.errors import DataError, SampleRejected
from data_prep.images.formats import SNIFFED_BYTES, looks_like_image
from data_prep.records import Record
from data_prep.sources.captions import MAX_CAPTION_BYTES
from data_prep.sources.filesystem import MAX_FILE_BYTES, FileTree, reraise_as_oserror
from data_prep.sources.members import Member, MemberLocation, Members
from data_prep.sources.sequential import HandleCache, SequentialReader
from data_prep.sources.tar import COMPRESSED_SUFFIXES, list_tar, open_decompressed
from data_prep.sources.zip import list_zip, read_zip


class ArchiveReader:
    """List and read the archives of a folder. Reading is thread-safe."""

    def __init__(self, tree: FileTree) -> None:
        self._tree, self._streams = tree, HandleCache[SequentialReader]()

    def __reduce__(self) -> tuple[type["ArchiveReader"], tuple[FileTree]]:
        return type(self), (self._tree,)

    def list_members(self, name: str) -> Members:
        """Yield the members of an archive. Raises DataError if the file cannot be read."""
        with self.open_stream(name) as file:
            yield from list_zip(file) if _is_zip(name) else list_tar(file, self.version(name))

    def read_image(self, record: Record) -> bytes:
        """Read the image of a record. Raises OSError if its size or checksum differs from the archive's directory."""
        name, location, _ = _split_location(record)
        return self._read(name, location, MAX_FILE_BYTES)

    def read_caption(self, record: Record) -> bytes | None:
        """Read the caption member, up to one byte more than allowed. None if there is none. Raises OSError."""
        name, _, caption_location = _split_location(record)
        return self._read(name, caption_location, MAX_CAPTION_BYTES + 1) if caption_location else None

    def read_member(self, name: str, member: Member) -> bytes:
        """Read a member of an archive. Raises OSError."""
        return self._read(name, member.location, MAX_FILE_BYTES)

    def looks_like_image(self, name: str, member: Member) -> bool:
        """Tell by the content whether a member is an image; one that must not or cannot be read counts."""
        if member.problem:
            return True
        try:
            return looks_like_image(self._read(name, member.location, min(SNIFFED_BYTES, member.size)))
        except (OSError, SampleRejected):
            return True

    @contextmanager
    def open_stream(self, name: str) -> Iterator[BinaryIO]:
        """Open a zip or the (decompressed) tar. Raises DataError if the file cannot be read, when opened or later."""
        url = f"{self._tree.url}/{name}"
        with _reraise_as_data_error(url):
            file = self._tree.open(name)
        with file:
            wrapped = cast("BinaryIO", _DataErrorFile(file, url))
            if name.lower().endswith(COMPRESSED_SUFFIXES):
                with open_decompressed(wrapped, name.lower()) as stream:
                    yield stream
            else:
                yield wrapped

    def version(self, name: str) -> str:
        """Return the version of the archive file. Raises DataError."""
        with _reraise_as_data_error(f"{self._tree.url}/{name}"):
            return self._tree.entry(name).version

    def _read(self, name: str, location: MemberLocation, limit: int) -> bytes:
        """Read at most ``limit`` bytes of a member."""
        with reraise_as_oserror(name):
            if _is_zip(name):
                return read_zip(lambda offset, size: self._tree.read(name, size, offset), location, limit)
            offset, size = location[0], min(location[1], limit)
            if name.lower().endswith(COMPRESSED_SUFFIXES):
                data = self._streams.get(name, lambda: SequentialReader(lambda: self.open_stream(name))).read(
                    offset, size
                )
            else:
                data = self._tree.read(name, size, offset)
            if len(data) < size:
                raise OSError("the archive ends within the member")
            return data


def _is_zip(name: str) -> bool:
    return name.lower().endswith(".zip")


def _split_location(record: Record) -> tuple[str, MemberLocation, MemberLocation]:
    """Split into archive name, image location and caption location; the latter is empty without a caption."""
    name, *numbers = record.location
    fields, width = tuple(int(number) for number in numbers), 4 if _is_zip(str(name)) else 2
    return str(name), fields[:width], fields[width:]


@contextmanager
def _reraise_as_data_error(url: str) -> Iterator[None]:
    """Raise DataError for I/O errors: a network failure must stop the job, not count as a corrupt archive."""
    try:
        with reraise_as_oserror(url):
            yield
    except OSError as error:
        raise DataError(f"source {url} cannot be read ({error.strerror or error}); try again, or move it") from error


class _DataErrorFile(io.RawIOBase):
    """Wrap a file so that its I/O errors are DataError; other exceptions then mean that its content is corrupt."""

    def __init__(self, file: BinaryIO, url: str) -> None:
        self._file, self._url = file, url

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        with _reraise_as_data_error(self._url):
            return self._file.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()
