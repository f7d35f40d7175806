"""Tar archives: headers are read one after the other, and members by offset and size; nothing is unpacked."""

import bz2
import gzip
import lzma
import tarfile
from typing import BinaryIO, cast

from data_prep.errors import DataError
from data_prep.sources.filesystem import MAX_FILE_BYTES
from data_prep.sources.members import Member, Members, clean_name, name_problem

COMPRESSED_SUFFIXES = (".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")
MAX_HEADER_BYTES = 2**20
"""More than any honest header takes; the format would allow gigabytes."""


def open_decompressed(file: BinaryIO, name: str) -> BinaryIO:
    """The tar in a compressed file, by the file's name, to be read forwards."""
    if name.endswith("gz"):
        return cast("BinaryIO", gzip.GzipFile(fileobj=file))
    return cast("BinaryIO", lzma.LZMAFile(file) if name.endswith("xz") else bz2.BZ2File(file))


def list_tar(file: BinaryIO, version: str) -> Members:
    """Every member that is no folder, in the archive's order; place is the offset in the tar, and size.

    ``file`` only goes forward, and may be read between two members. ``stamp`` is the archive's, as headers do not tell
    what changed.
    """
    last_offset = -1
    try:
        tar = tarfile.TarFile(fileobj=_BoundedReader(file), tarinfo=_StrictTarInfo, encoding="utf-8")  # type: ignore[arg-type]
        while (info := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep all headers, 2 kB each
            if info.offset <= last_offset:
                raise tarfile.ReadError("members that lie in a circle")
            last_offset = info.offset
            if not info.isdir():
                name = clean_name(info.name)
                yield Member(
                    name, (info.offset_data, info.size), info.size, version, name_problem(name) or _header_problem(info)
                )
    except DataError:
        raise  # the archive cannot be had, which says nothing of what is in it
    except Exception:  # damaged headers and streams make tarfile and decompressors raise nearly anything
        yield None


class _StrictTarInfo(tarfile.TarInfo):
    """A header that is damaged is an error: tarfile takes it for the archive's end."""

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
    """The file, from which no header can have more than its share read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.tell, self.seek = file, file.tell, file.seek

    def read(self, size: int) -> bytes:
        """At most that much; raises ReadError for more than a header may take."""
        if not 0 <= size <= MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)


def _header_problem(info: tarfile.TarInfo) -> str | None:
    if not info.isreg():
        return "not a file"
    if info.issparse():
        return "sparse file"
    return "file too large" if info.size > MAX_FILE_BYTES else None
