"""Keys: a picture's name in the shards, from its path or row, unique without a list of all names."""

import hashlib
import re
from pathlib import PurePosixPath

IMAGE_SUFFIXES = frozenset(
    (".png", ".apng", ".jpg", ".jpeg", ".jfif", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff")
    + (".ppm", ".pgm", ".pnm", ".jp2")
)
MAX_KEY_BYTES = 180
"""Leaves room for an extension in the 255 bytes that file systems give a name."""
HASH_DIGITS = 10


class Keys:
    """Keys for one folder or archive, whose names are held while it is listed (about 100 bytes a picture)."""

    def __init__(self) -> None:
        self._taken = set[str]()

    def assign(self, path: str) -> str:
        """Key of a picture's path. ``a.jpg`` and ``a.png`` share a name: the first to come has it, the others a hash.

        No path may be asked for twice.
        """
        name, suffix = split_suffix(path)
        if name in self._taken:
            return hashed_key(name, suffix)
        self._taken.add(name)
        return make_key(name)


def make_key(name: str) -> str:
    """The name with ``__`` for slashes, if that can be undone; else also made safe, and told apart by a hash.

    So different names have different keys, but for one chance in 10^12 a pair of names that look alike.
    """
    key = name.replace("/", "__")
    is_reversible = key.replace("__", "/") == name and not re.search(rf"-[0-9a-f]{{{HASH_DIGITS}}}$", key)
    return key if is_valid_key(key) and is_reversible else hashed_key(name)


def is_valid_key(name: str) -> bool:
    """Whether the name can be a key as it is."""
    return bool(re.fullmatch(r"[\w\-]+", name)) and len(name.encode()) <= MAX_KEY_BYTES


def hashed_key(name: str, salt: str = "") -> str:
    """A safe form of the name and 10 hex digits over name and ``mark``, which tells apart what shares the name."""
    # Nothing that opens a file has a NUL in its name, so no other name reads like this one with its mark.
    raw = f"{name}\0{salt}" if salt else name
    digits = hashlib.sha256(raw.encode(errors="surrogatepass")).hexdigest()[:HASH_DIGITS]
    safe = re.sub(r"[^\w\-]+", "_", name.replace("/", "__")).encode()[: MAX_KEY_BYTES - HASH_DIGITS - 1]
    return f"{safe.decode(errors='ignore')}-{digits}"


def row_key(row: int) -> str:
    """Key of a row, counted from 0."""
    return f"row-{row:09d}"


def split_suffix(path: str) -> tuple[str, str]:
    """``a/b.c.png`` is ``a/b.c`` and ``.png``."""
    suffix = PurePosixPath(path).suffix
    return path.removesuffix(suffix), suffix


def is_image_path(path: str) -> bool:
    """Whether the name ends like a picture's. What macOS leaves beside files (``._a.png``, ``__MACOSX/``) is none."""
    name = path.rpartition("/")[2]
    if name.startswith("._") or path.startswith("__MACOSX/"):
        return False
    return split_suffix(name)[1].lower() in IMAGE_SUFFIXES


def is_utf8(name: str) -> bool:
    """Whether the bytes on disk were UTF-8; Python carries others as lone surrogates, which no JSON file takes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def escape(name: str) -> str:
    """The name for people, where it is no text."""
    return name.encode(errors="backslashreplace").decode()


MAX_CAPTION_BYTES = 64 * 2**10
"""So much of the file is looked at."""


def caption_path(path: str, suffix: str) -> str:
    """The text that belongs to the picture at a path."""
    return split_suffix(path)[0] + suffix


def first_line(data: bytes) -> str | None:
    """The first line that is not empty, if there is one; what is not UTF-8 is replaced."""
    lines = data[:MAX_CAPTION_BYTES].decode("utf-8-sig", errors="replace").splitlines()
    return next((line.strip() for line in lines if line.strip()), None)
