"""Zip archives, read in place: the central directory says where each member lies, and each is read by its range."""

import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import BinaryIO

from data_prep.errors import DataError
from data_prep.sources.filesystem import MAX_FILE_BYTES
from data_prep.sources.members import Member, MemberLocation, Members, clean_name, name_problem

ENCRYPTED_FLAG = 0x1
UTF8_NAME_FLAG = 0x800
UNIX_SYSTEM = 3
SUPPORTED_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""What is decompressed. Pictures are compressed already, so nobody bothers with more."""
LOCAL_HEADER = struct.Struct("<4s4xH16xHH")
"""Signature, method, lengths of name and of what follows it; sizes and checksum stand in the central directory."""
PREFETCHED_NAME_BYTES = 512
"""Bytes of name and extra fields that are fetched along with the member, which makes two requests one."""


def list_zip(file: BinaryIO) -> Members:
    """Every member that is no folder, in the central directory's order; place is offset, packed size, size, checksum.

    The directory is in memory while it is listed, about 0.6 kB a member.
    """
    try:
        infos = zipfile.ZipFile(file).infolist()
    except DataError:
        raise  # the archive cannot be had, which says nothing of what is in it
    except Exception:  # a damaged directory makes zipfile raise nearly anything
        yield None
        return
    for info in infos:
        if not _member_name(info).endswith("/"):
            name = clean_name(_member_name(info))
            location = (info.header_offset, info.compress_size, info.file_size, info.CRC)
            problem = name_problem(name) or _entry_problem(info)
            yield Member(name, location, info.file_size, f"{info.file_size}-{info.CRC:08x}", problem)


def read_zip(read_range: Callable[[int, int], bytes], location: MemberLocation, limit: int) -> bytes:
    """At most ``limit`` bytes of a member; ``read`` takes offset and size. Raises OSError if it is not as declared."""
    offset, compressed_size, size, checksum = location
    num_bytes = min(limit, size)
    if num_bytes < size:
        compressed_size = min(
            compressed_size, 2 * num_bytes
        )  # of a text's beginning, more than what it can be packed into
    if offset < 0:
        raise OSError("no member before the archive's beginning")
    data = read_range(offset, LOCAL_HEADER.size + PREFETCHED_NAME_BYTES + compressed_size)
    if len(data) < LOCAL_HEADER.size or data[:4] != b"PK\3\4":
        raise OSError("no member where the archive's directory says")
    _, method, *lengths = LOCAL_HEADER.unpack_from(data)
    start = LOCAL_HEADER.size + sum(lengths)
    compressed = data[start : start + compressed_size]
    if len(data) < start + compressed_size:
        compressed = read_range(offset + start, compressed_size)
    if len(compressed) < compressed_size:
        raise OSError("the archive ends within the member")
    content = compressed[: num_bytes + 1] if method == zipfile.ZIP_STORED else _inflate(compressed, num_bytes + 1)
    if num_bytes == size and (len(content) != size or zlib.crc32(content) != checksum):
        raise OSError("the member is not what the archive's directory says (size or checksum differs)")
    return content[:num_bytes]


def _inflate(compressed: bytes, max_bytes: int) -> bytes:
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(compressed, max_bytes)
    except zlib.error as error:
        raise OSError(f"the member does not decompress ({error})") from error


def _member_name(info: zipfile.ZipInfo) -> str:
    """The name as UTF-8, whether the archive says so or not, with slashes.

    By the letter it would be cp437 where it does not say so, but that is what many tools forget, and nobody uses cp437.
    Some tools on Windows write backslashes.
    """
    name = info.orig_filename
    if not info.flag_bits & UTF8_NAME_FLAG:
        name = name.encode("cp437").decode(errors="surrogateescape")
    return name.replace("\\", "/")


def _entry_problem(info: zipfile.ZipInfo) -> str | None:
    mode = stat.S_IFMT(info.external_attr >> 16) if info.create_system == UNIX_SYSTEM else 0
    if mode not in (0, stat.S_IFREG):
        return "not a file"
    if info.flag_bits & ENCRYPTED_FLAG:
        return "encrypted"
    if info.compress_type not in SUPPORTED_METHODS:
        return "unknown compression"
    return "file too large" if max(info.file_size, info.compress_size) > MAX_FILE_BYTES else None
