"""Tar archives: list the headers sequentially; members are then read by offset and size, without unpacking."""

import bz2
import gzip
import lzma
import tarfile
from typing import BinaryIO, cast

from data_prep.errors import DataError, SampleRejected
from data_prep.sources.archives.members import Member, Members, clean_name, name_problem
from data_prep.sources.files.filesystem import MAX_FILE_BYTES

COMPRESSED_SUFFIXES = (".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")
MAX_HEADER_BYTES = 2**20
"""Limit of a header in bytes. Valid headers are far smaller, but the format would allow gigabytes."""


def open_decompressed(file: BinaryIO, name: str) -> BinaryIO:
    """Open the decompressed stream of a compressed tar; the suffix of ``name`` selects the codec."""
    if name.endswith("gz"):
        return cast("BinaryIO", gzip.GzipFile(fileobj=file))
    return cast("BinaryIO", lzma.LZMAFile(file) if name.endswith("xz") else bz2.BZ2File(file))


def list_tar(file: BinaryIO, version: str) -> Members:
    """Yield every member except folders, in order; its location is (offset in the tar, size).

    ``file`` is only read forwards; callers may read from it between two members. ``version`` is that of the archive,
    because headers hold no checksum of the content.
    """
    last_offset = -1
    try:
        bounded = cast("BinaryIO", _BoundedReader(file))
        tar = tarfile.TarFile(fileobj=bounded, tarinfo=_StrictTarInfo, encoding="utf-8")
        while (info := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep all headers, 2 kB each
            if info.offset <= last_offset:
                raise tarfile.ReadError("member offsets form a loop")
            last_offset = info.offset
            if not info.isdir():
                name = clean_name(info.name)
                yield Member(
                    name, (info.offset_data, info.size), info.size, version, name_problem(name) or _header_problem(info)
                )
    except (DataError, SampleRejected):
        raise  # a failed read, not a corrupt archive
    except Exception:  # for corrupt data, tarfile and the decompressors raise nearly any exception
        yield None


class _StrictTarInfo(tarfile.TarInfo):
    """Raise an error for a corrupt header, where tarfile would silently assume the end of the archive."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> "_StrictTarInfo":
        try:
            info = super().fromtarfile(archive)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError(str(error)) from error
        if info.size < 0:
            raise tarfile.ReadError("negative size")
        return info


class _BoundedReader:
    """Wrap a file so that a header cannot make tarfile read more than ``MAX_HEADER_BYTES``."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.tell, self.seek = file, file.tell, file.seek

    def read(self, size: int) -> bytes:
        """Read bytes of a header. Raises ReadError for more than ``MAX_HEADER_BYTES``."""
        if not 0 <= size <= MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)


def _header_problem(info: tarfile.TarInfo) -> str | None:
    if not info.isreg():
        return "not a file"
    if info.issparse():
        return "sparse file"
    return "file too large" if info.size > MAX_FILE_BYTES else None
