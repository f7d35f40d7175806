"""Where pictures come from: a folder tree."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_prep.config import PrepareConfig
from data_prep.errors import DataError

PICTURE_SUFFIXES = {
    *(".png", ".apng", ".jpg", ".jpeg", ".jfif", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pnm", ".jp2"),
}


@dataclass(frozen=True, kw_only=True)
class Record:
    """A picture before it is opened."""

    key: str
    """Name in the shards: the path without suffix, safe as a tar member's name and unique in the set."""
    identity: str
    """Who or what it shows, from the path."""
    source: str
    """Path relative to the source folder."""


@dataclass(frozen=True, kw_only=True)
class Reject:
    """A picture that is kept out, and why."""

    key: str
    """As in Record."""
    source: str
    """Path relative to the source folder."""
    reason: str
    """One of few, so that they can be counted."""


@dataclass(frozen=True, kw_only=True)
class FolderSource:
    """Every picture under a folder."""

    root: Path
    """The folder. Symbolic links are followed, loops are not."""
    pattern: str
    """As in PrepareConfig."""

    @classmethod
    def of(cls, config: PrepareConfig) -> "FolderSource":
        """The configured source."""
        return cls(root=Path(config.source), pattern=config.pattern)

    def __iter__(self) -> Iterator[Record | Reject]:
        """Pictures in the order of their paths; one whose path names no identity is a Reject.

        Raises DataError if the folder is missing or some part of it cannot be listed.
        """
        if not self.root.is_dir():
            raise DataError(f"source {self.root}: no such folder; give a folder of pictures as data.source")
        pattern, seen = _compile(self.pattern), set[str]()
        for path in _walk(self.root, (self.root.resolve(),)):
            source = path.relative_to(self.root)
            name = source.with_suffix("").as_posix()
            key = _unique(_safe(name), seen)
            match = pattern.fullmatch(name)
            if not _is_text(name):
                yield Reject(key=key, source=_printable(source), reason="name is not UTF-8")
            elif match is None:
                yield Reject(key=key, source=source.as_posix(), reason="path names no identity")
            else:
                yield Record(key=key, identity=match["identity"], source=source.as_posix())


def caption_of(record: Record, config: PrepareConfig) -> str:
    """First line of the caption file beside the picture, else the template."""
    path = (Path(config.source) / record.source).with_suffix(config.caption_suffix)
    if not path.is_file():
        return config.default_caption()
    lines = path.read_text(encoding="utf-8-sig", errors="replace").strip().splitlines()
    return lines[0].strip() if lines else config.default_caption()


def _walk(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    """Files with a picture's suffix, one folder in memory at a time; ``above`` are the real paths down to here."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(
            f"source folder {folder} cannot be listed ({error.strerror}); make it readable or move it away"
        ) from error
    for path in entries:
        if path.is_dir():
            real = path.resolve()
            if real not in above:
                yield from _walk(path, (*above, real))
        elif path.suffix.lower() in PICTURE_SUFFIXES:
            yield path


def _compile(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", pattern)
    return re.compile("".join(f"(?P<{part}>[^/]+)" if odd % 2 else re.escape(part) for odd, part in enumerate(parts)))


def _safe(name: str) -> str:
    """A member's extension begins at its first dot, so a key has none, nor slashes: shards unpack flat."""
    return re.sub(r"[^\w\-]+", "_", name.replace("/", "__"))


def _unique(key: str, seen: set[str]) -> str:
    candidate, number = key, 2
    while candidate in seen:
        candidate, number = f"{key}-{number}", number + 1
    seen.add(candidate)
    return candidate


def _is_text(name: str) -> bool:
    """Whether the bytes on disk were UTF-8; Python carries others as lone surrogates, which no JSON file takes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _printable(path: Path) -> str:
    return path.as_posix().encode(errors="backslashreplace").decode()
