"""Sample keys: names in the shards that are unique, without keeping a list of all names in memory."""

import hashlib
import re
from pathlib import PurePosixPath

MAX_KEY_BYTES = 180
"""Limit of a key in bytes. File systems allow names of 255 bytes; the rest is for the suffix."""
HASH_DIGITS = 10


class Keys:
    """Assign keys within one folder or archive; holds its names while it is listed (about 100 bytes per image)."""

    def __init__(self) -> None:
        self._taken = set[str]()

    def assign(self, path: str) -> str:
        """Return the key of an image path. Call it once per path.

        ``a.jpg`` and ``a.png`` share the name ``a``: the first one gets it, later ones get a hash appended.
        """
        name, suffix = split_suffix(path)
        if name in self._taken:
            return hashed_key(name, suffix or "no suffix")
        self._taken.add(name)
        return make_key(name)


def make_key(name: str) -> str:
    """Convert a path to a key: replace slashes by ``__``, or use ``hashed_key`` if that is not reversible or unsafe.

    Different names have different keys, except for a hash collision of similar names (1 in 10^12 per pair).
    """
    key = name.replace("/", "__")
    is_reversible = key.replace("__", "/") == name and not re.search(rf"-[0-9a-f]{{{HASH_DIGITS}}}$", key)
    return key if is_valid_key(key) and is_reversible else hashed_key(name)


def is_valid_key(name: str) -> bool:
    """Return whether the name can be used as a key without change."""
    return bool(re.fullmatch(r"[\w\-]+", name)) and len(name.encode()) <= MAX_KEY_BYTES


def hashed_key(name: str, salt: str = "") -> str:
    """Return the name with unsafe characters replaced and 10 hex digits of a hash of name and ``salt`` appended.

    ``salt`` distinguishes samples that share a name, such as two rows with the same path.
    """
    # File names contain no NUL, so no other name equals this name with its salt.
    raw = f"{name}\0{salt}" if salt else name
    digits = hashlib.sha256(raw.encode(errors="surrogatepass")).hexdigest()[:HASH_DIGITS]
    safe = re.sub(r"[^\w\-]+", "_", name.replace("/", "__")).encode()[: MAX_KEY_BYTES - HASH_DIGITS - 1]
    return f"{safe.decode(errors='ignore')}-{digits}"


def row_key(row: int) -> str:
    """Return the key of a row, counted from 0."""
    return f"row-{row:09d}"


def split_suffix(path: str) -> tuple[str, str]:
    """Split off the last suffix: ``a/b.c.png`` becomes ``a/b.c`` and ``.png``."""
    suffix = PurePosixPath(path).suffix
    return path.removesuffix(suffix), suffix


def is_utf8(name: str) -> bool:
    """Return whether the name is valid UTF-8 on disk.

    Python represents other bytes as lone surrogates, which cannot be written to JSON files.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def escape(name: str) -> str:
    """Return the name with characters that cannot be encoded as UTF-8 escaped, for messages."""
    return name.encode(errors="backslashreplace").decode()
