"""Zip archives: list the central directory; members are then read by byte range, without unpacking."""

import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import BinaryIO

from data_prep.errors import DataError, SampleRejected
from data_prep.sources.archives.members import DamagedMember, Member, MemberLocation, Members, clean_name, name_problem
from data_prep.sources.files.filesystem import MAX_FILE_BYTES

ENCRYPTED_FLAG = 0x1
UTF8_NAME_FLAG = 0x800
UNIX_SYSTEM = 3
SUPPORTED_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Supported compression methods. Images are compressed already, so other methods are rare."""
LOCAL_HEADER = struct.Struct("<4s4xH16xHH")
"""Signature, compression method, length of the name, length of the extra field. Sizes and checksum are taken from the
central directory."""
PREFETCHED_NAME_BYTES = 512
"""Bytes of name and extra field that are fetched with the member, to save a second request."""


def list_zip(file: BinaryIO) -> Members:
    """Yield every member except folders, in the order of the central directory.

    Its location is (offset, compressed size, size, CRC-32). The directory is held in memory, about 0.6 kB per member.
    """
    try:
        infos = zipfile.ZipFile(file).infolist()
    except (DataError, SampleRejected):
        raise  # a failed read, not a corrupt archive
    except Exception:  # for a corrupt directory, zipfile raises nearly any exception
        yield None
        return
    for info in infos:
        if not _member_name(info).endswith("/"):
            name = clean_name(_member_name(info))
            location = (info.header_offset, info.compress_size, info.file_size, info.CRC)
            problem = name_problem(name) or _entry_problem(info)
            yield Member(name, location, info.file_size, f"{info.file_size}-{info.CRC:08x}", problem)


def read_zip(read_range: Callable[[int, int], bytes], location: MemberLocation, limit: int) -> bytes:
    """Read at most ``limit`` bytes of a member.

    ``read_range`` takes offset and size. Raises DamagedMember if the member differs from the central directory.
    """
    offset, compressed_size, size, checksum = location
    num_bytes = min(limit, size)
    if num_bytes < size:
        # Of a long caption only the beginning is needed, which compresses to less than twice its size.
        compressed_size = min(compressed_size, 2 * num_bytes)
    if offset < 0:
        raise DamagedMember("no member before the archive's beginning")
    data = read_range(offset, LOCAL_HEADER.size + PREFETCHED_NAME_BYTES + compressed_size)
    if len(data) < LOCAL_HEADER.size or data[:4] != b"PK\3\4":
        raise DamagedMember("no member where the archive's directory says")
    _, method, *lengths = LOCAL_HEADER.unpack_from(data)
    start = LOCAL_HEADER.size + sum(lengths)
    compressed = data[start : start + compressed_size]
    if len(data) < start + compressed_size:
        compressed = read_range(offset + start, compressed_size)
    if len(compressed) < compressed_size:
        raise DamagedMember("the archive ends within the member")
    content = compressed[: num_bytes + 1] if method == zipfile.ZIP_STORED else _inflate(compressed, num_bytes + 1)
    if num_bytes == size and (len(content) != size or zlib.crc32(content) != checksum):
        raise DamagedMember("the member is not what the archive's directory says (size or checksum differs)")
    return content[:num_bytes]


def _inflate(compressed: bytes, max_bytes: int) -> bytes:
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(compressed, max_bytes)
    except zlib.error as error:
        raise DamagedMember(f"the member does not decompress ({error})") from error


def _member_name(info: zipfile.ZipInfo) -> str:
    """Decode the name as UTF-8, with slashes as separators.

    Without the UTF-8 flag the standard encoding is cp437, but many tools omit the flag and write UTF-8. Some Windows
    tools write backslashes.
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
