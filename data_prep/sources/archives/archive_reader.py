"""List archives from their headers or directories and read members in place."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from data_prep.errors import DataError, SampleRejected
from data_prep.images.formats import SNIFFED_BYTES, looks_like_image
from data_prep.records import Record
from data_prep.sources.archives.members import DamagedMember, Member, MemberLocation, Members
from data_prep.sources.archives.tar import COMPRESSED_SUFFIXES, list_tar, open_decompressed
from data_prep.sources.archives.zip import list_zip, read_zip
from data_prep.sources.files.failures import listing_errors
from data_prep.sources.files.filesystem import MAX_FILE_BYTES, FileTree
from data_prep.sources.files.sequential import HandleCache, SequentialReader
from data_prep.sources.files.versions import changed
from data_prep.sources.labels.captions import MAX_CAPTION_BYTES


class ArchiveReader:
    """List and read the archives of a folder. Reading is thread-safe.

    The version of a record starts with what tells whether its archive was changed: the checksum of the member in a zip,
    the version of the file for a tar.
    """

    def __init__(self, tree: FileTree) -> None:
        self._tree = tree
        self._streams = HandleCache[SequentialReader]()
        self._zip_locations = HandleCache[frozenset[MemberLocation]]()

    def __reduce__(self) -> tuple[type["ArchiveReader"], tuple[FileTree]]:
        return type(self), (self._tree,)

    def list_members(self, name: str) -> Members:
        """Yield the members of an archive. Raises DataError if the file cannot be read."""
        version = self.version(name)
        with self.listing(name, version) as file:
            yield from list_zip(file) if _is_zip(name) else list_tar(file, version)

    def read_member(self, name: str, member: Member) -> bytes:
        """Read a member of an archive. Raises SampleRejected and SourceChangedError."""
        return self._read(name, member.location, MAX_FILE_BYTES, member.version)

    def looks_like_image(self, name: str, member: Member) -> bool:
        """Tell by the content whether a member is an image; one that must not or cannot be read counts."""
        if member.problem:
            return True
        try:
            return looks_like_image(self._read(name, member.location, min(SNIFFED_BYTES, member.size), member.version))
        except SampleRejected:
            return True

    @contextmanager
    def listing(self, name: str, version: str) -> Iterator[BinaryIO]:
        """Open a zip or the (decompressed) tar of this version to list it. Raises DataError, when opened or later."""
        with listing_errors(self._url(name)), self._open_stream(name, version) as file:
            yield file

    def version(self, name: str) -> str:
        """Return the version of the archive file. Raises DataError."""
        with listing_errors(self._url(name)):
            return self._tree.entry(name).version

    def read_image(self, record: Record) -> bytes:
        """Read the image of a record; see Source."""
        name, location, _ = _split_location(record)
        return self._read(name, location, MAX_FILE_BYTES, record.version.split("+")[0])

    def read_caption(self, record: Record) -> bytes | None:
        """Read the caption member, up to one byte more than allowed; None if there is none. See Source."""
        name, _, caption_location = _split_location(record)
        if not caption_location:
            return None
        return self._read(name, caption_location, MAX_CAPTION_BYTES + 1, record.version.split("+")[-1])

    def _read(self, name: str, location: MemberLocation, limit: int, version: str) -> bytes:
        """Read at most ``limit`` bytes of a member."""
        if _is_zip(name):
            return self._read_zip(name, location, limit)
        offset, size = location[0], min(location[1], limit)
        if name.lower().endswith(COMPRESSED_SUFFIXES):
            data = self._read_compressed(name, offset, size, version)
        else:
            data = self._tree.read(name, size, offset, version=version)
        if len(data) < size:
            raise DamagedMember("the archive ends within the member")
        return data

    def _read_zip(self, name: str, location: MemberLocation, limit: int) -> bytes:
        try:
            return read_zip(lambda offset, size: self._tree.read(name, size, offset), location, limit)
        except DamagedMember as error:
            # Only now is it worth to look whether the member is damaged, or was moved by a change of the archive.
            if location in self._zip_locations.get(name, lambda: self._list_locations(name)):
                raise
            raise changed(self._url(name), error.cause) from error

    def _list_locations(self, name: str) -> frozenset[MemberLocation]:
        return frozenset(member.location for member in self.list_members(name) if member)

    def _read_compressed(self, name: str, offset: int, size: int, version: str) -> bytes:
        stream = self._streams.get((name, version), lambda: SequentialReader(lambda: self._open_stream(name, version)))
        try:
            return stream.read(offset, size)
        except (DataError, SampleRejected):
            raise
        except Exception as error:  # for corrupt data, the decompressors raise nearly any exception
            raise DamagedMember(f"the archive does not decompress ({error})") from error

    @contextmanager
    def _open_stream(self, name: str, version: str) -> Iterator[BinaryIO]:
        """Open a zip or the (decompressed) tar. Raises ReadFailed or SourceChangedError, when opened or later."""
        with self._tree.open(name, version) as file:
            if name.lower().endswith(COMPRESSED_SUFFIXES):
                with open_decompressed(file, name.lower()) as stream:
                    yield stream
            else:
                yield file

    def _url(self, name: str) -> str:
        return f"{self._tree.url}/{name}"


def _is_zip(name: str) -> bool:
    return name.lower().endswith(".zip")


def _split_location(record: Record) -> tuple[str, MemberLocation, MemberLocation]:
    """Split into archive name, image location and caption location; the latter is empty without a caption."""
    name, *numbers = record.location
    fields, width = tuple(int(number) for number in numbers), 4 if _is_zip(str(name)) else 2
    return str(name), fields[:width], fields[width:]
