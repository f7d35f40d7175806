"""Generated archives, valid and malformed, with the expected outcome of every image in them."""

import gzip
import io
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

BODY = b"the bytes of an image " * 40
READ, GONE = "read", "damaged in archive"
NOT_A_FILE, UNSAFE, NOT_TEXT = "not a file", "unsafe name", "name is not UTF-8"
TWICE, BROKEN = "duplicate name in archive", "corrupt archive"
TOO_LARGE = 2**29 + 1


@dataclass(frozen=True)
class Case:
    """An archive and the expected outcome of each image in it, in order."""

    name: str
    file: str
    data: bytes
    outcomes: list[str]


@cache
def cases() -> list[Case]:
    """Return every archive of the corpus; deterministic."""
    return [*_names(), *_kinds(), *_damaged_zips(), *_odd_zips(), *_damaged_tars(), *_odd_tars(), *_compressed()]


def zip_of(*names: str, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Build a zip with members of these names, each with the content BODY."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about duplicate names
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), BODY, method)
    return buffer.getvalue()


def tar_of(*names: str, format: int = tarfile.PAX_FORMAT) -> bytes:  # noqa: A002 - as tarfile calls it
    """Build a tar with members of these names, each with the content BODY."""
    return tar_with(*(_info(name) for name in names), format=format)


def tar_with(*infos: tarfile.TarInfo, format: int = tarfile.PAX_FORMAT) -> bytes:  # noqa: A002 - as tarfile calls it
    """Build a tar of members with these headers; regular files get as many bytes of BODY as the header says."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format, encoding="utf-8", errors="surrogateescape") as archive:
        for info in infos:
            archive.addfile(info, io.BytesIO(BODY) if info.isreg() else None)
    return buffer.getvalue()


def patched(data: bytes, *changes: tuple[int, bytes]) -> bytes:
    """Return the data with bytes replaced at the given offsets."""
    changed = bytearray(data)
    for at, new in changes:
        changed[at : at + len(new)] = new
    return bytes(changed)


def _info(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(BODY) if kind == tarfile.REGTYPE else 0
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def _directory(data: bytes) -> int:
    """Return the offset of the central directory of a zip with one member."""
    return data.rindex(b"PK\1\2")


def _signed(header: bytes) -> bytes:
    """Return a tar header with a valid checksum."""
    blank = header[:148] + b" " * 8 + header[156:512]
    return blank[:148] + f"{sum(blank):06o}\0 ".encode() + blank[156:] + header[512:]


def _names() -> Iterator[Case]:
    makers: tuple[tuple[str, Callable[..., bytes]], ...] = (("zip", zip_of), ("tar", tar_of))
    for suffix, make in makers:
        rows = {
            "sound": (["a/0.png", "a/1.jpg", "b/0.png"], [READ, READ, READ]),
            "empty": ([], []),
            "path traversal": (["a/../../b/0.png", "../a/0.png", "a/0.png"], [UNSAFE, UNSAFE, READ]),
            "absolute names": (["/etc/0.png", "C:/a/0.png", "a/0.png"], [UNSAFE, UNSAFE, READ]),
            "the same name twice": (["a/0.png", "a/0.png", "./a/0.png"], [READ, TWICE, TWICE]),
            "names that differ by suffix": (["a/0.png", "a/0.jpg"], [READ, READ]),
            "what macOS adds": (["a/0.png", "__MACOSX/a/._0.png", "a/._0.png", "a/.DS_Store"], [READ]),
            "nested archives": (["a/0.png", "a/b.zip", "a/b.tar"], [READ]),
            "dotted names": (["./a/0.png", "./a//1.png"], [READ, READ]),
            "a long name": ([f"a/{'x' * 300}.png"], [READ]),
        }
        for name, (members, outcomes) in rows.items():
            yield Case(f"{suffix}: {name}", f"set.{suffix}", make(*members), outcomes)


def _kinds() -> Iterator[Case]:
    """Members that are not regular files."""
    link = zipfile.ZipInfo("a/link.png")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(link, "/etc/passwd")
        archive.mkdir("a/folder.png")
    yield Case("zip: link", "set.zip", buffer.getvalue(), [NOT_A_FILE])
    for name in ("SYMTYPE", "LNKTYPE", "FIFOTYPE", "CHRTYPE", "BLKTYPE"):
        odd = _info("a/odd.png", getattr(tarfile, name), linkname="/etc/passwd")
        yield Case(f"tar: {name}", "set.tar", tar_with(odd, _info("a/0.png")), [NOT_A_FILE, READ])
    yield Case("tar: folder", "set.tar", tar_with(_info("a/0.png/", tarfile.DIRTYPE), _info("a/0.png")), [READ])


def _damaged_zips() -> Iterator[Case]:
    one = zip_of("a/0.png")
    at = _directory(one)
    stored = zip_of("a/0.png", method=zipfile.ZIP_STORED)
    yield Case("zip: nothing in it", "set.zip", b"", [BROKEN])
    yield Case("zip: no zip", "set.zip", BODY, [BROKEN])
    yield Case("zip: cut off", "set.zip", one[:-30], [BROKEN])
    yield Case("zip: bad directory", "set.zip", patched(one, (at, b"XX")), [BROKEN])
    yield Case("zip: damaged data", "set.zip", patched(one, (40, b"\xff\xff\xff")), [GONE])
    yield Case("zip: bad checksum", "set.zip", patched(stored, (40, b"X")), [GONE])
    yield Case("zip: no member where one should be", "set.zip", patched(one, (0, b"XX")), [GONE])
    yield Case("zip: larger than it says", "set.zip", patched(one, (at + 24, struct.pack("<I", 10))), [GONE])
    yield Case("zip: smaller than it says", "set.zip", patched(one, (at + 24, struct.pack("<I", 10_000))), [GONE])
    yield Case("zip: ends within the member", "set.zip", patched(one, (at + 20, struct.pack("<I", 10_000))), [GONE])


def _odd_zips() -> Iterator[Case]:
    one = zip_of("a/0.png")
    at = _directory(one)
    latin = zip_of("a/X.png").replace(b"a/X.png", b"a/\xe9.png")
    flagged = patched(latin, (_directory(latin) + 8, struct.pack("<H", 0x800)))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/0.png", bytes(10_000_000))
    bomb = buffer.getvalue()
    yield Case("zip: encrypted", "set.zip", patched(one, (at + 8, b"\1")), ["encrypted"])
    yield Case("zip: lzma", "set.zip", zip_of("a/0.png", method=zipfile.ZIP_LZMA), ["unknown compression"])
    yield Case("zip: name in Latin-1", "set.zip", latin, [NOT_TEXT])
    yield Case("zip: name that only claims to be UTF-8", "set.zip", flagged, [BROKEN])
    yield Case("zip: backslashes", "set.zip", zip_of("a\\0.png"), [READ])
    yield Case("zip: NUL in the name", "set.zip", zip_of("a/0X.png").replace(b"0X.png", b"0\0.png"), [UNSAFE])
    yield Case("zip: no name", "set.zip", zip_of("\0.png", "a/0.png"), [READ])
    yield Case("zip: too large", "set.zip", patched(one, (at + 24, struct.pack("<I", TOO_LARGE))), ["file too large"])
    at = _directory(bomb)
    yield Case("zip: bomb that claims to be small", "set.zip", patched(bomb, (at + 24, struct.pack("<I", 99))), [GONE])


def _damaged_tars() -> Iterator[Case]:
    two = tar_of("a/0.png", "a/1.png", format=tarfile.USTAR_FORMAT)
    second = two.index(b"a/1.png")
    yield Case("tar: nothing in it", "set.tar", b"", [BROKEN])
    yield Case("tar: no tar", "set.tar", BODY, [BROKEN])
    yield Case("tar: cut off in a header", "set.tar", two[: second + 100], [READ, BROKEN])
    yield Case("tar: cut off in the data", "set.tar", two[: second + 600], [READ, GONE, BROKEN])
    yield Case("tar: cut off after the data", "set.tar", two[: second + 512 + 1024], [READ, READ])
    yield Case("tar: bad checksum", "set.tar", patched(two, (second + 148, b"000000")), [READ, BROKEN])
    yield Case("tar: bad size", "set.tar", patched(two, (second + 124, b"zzzz")), [READ, BROKEN])
    back = patched(two, (second + 124, b"\xff" * 10 + struct.pack(">h", -2048)))
    yield Case("tar: size below zero", "set.tar", back[:second] + _signed(back[second:]), [READ, BROKEN])


def _odd_tars() -> Iterator[Case]:
    latin = tar_of("a/\udce9.png", "a/0.png", format=tarfile.GNU_FORMAT)
    odd = _info("short.png", pax_headers={"path": "../../odd.png"})
    below = _info("a/0.png", pax_headers={"size": "-4096"})
    huge = _signed(patched(tar_of("a/0.png", format=tarfile.USTAR_FORMAT), (124, b"77777777777\0"), (156, b"x"))[:512])
    sparse = _info("a/0.png", pax_headers={"GNU.sparse.map": "0,720", "GNU.sparse.size": "4096"})
    large = patched(tar_of("a/0.png", format=tarfile.USTAR_FORMAT), (124, f"{TOO_LARGE:011o}".encode()))
    yield Case("tar: name in Latin-1", "set.tar", latin, [NOT_TEXT, READ])
    yield Case("tar: pax header with an odd path", "set.tar", tar_with(odd, _info("a/0.png")), [UNSAFE, READ])
    yield Case("tar: pax header with a size below zero", "set.tar", tar_with(below), [BROKEN])
    yield Case("tar: pax header of gigabytes", "set.tar", huge + bytes(4096), [BROKEN])
    yield Case("tar: sparse", "set.tar", tar_with(sparse, _info("a/1.png")), ["sparse file", READ])
    yield Case("tar: too large", "set.tar", _signed(large), ["file too large", BROKEN])


def _compressed() -> Iterator[Case]:
    tar = tar_of("a/0.png", "a/1.png")
    packed = gzip.compress(tar, mtime=0)
    noise = gzip.compress(patched(tar, (len(tar) - 64, b"end")), mtime=0)
    yield Case("tar.gz: sound", "set.tar.gz", packed, [READ, READ])
    yield Case("tar.gz: no gzip", "set.tgz", tar, [BROKEN])
    yield Case("tar.gz: cut off", "set.tgz", packed[: len(packed) // 3], [BROKEN])
    yield Case("tar.gz: bad checksum", "set.tgz", patched(noise, (len(noise) - 8, b"\0\0")), [READ, READ])
    yield Case("tar.xz: no xz", "set.tar.xz", zlib.compress(tar), [BROKEN])
    yield Case("tar.bz2: no bzip2", "set.tar.bz2", tar, [BROKEN])
