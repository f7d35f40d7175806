"""Decide by its name whether an entry of a source is an image, is ignored, or must be told by its content."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import translate
from functools import cached_property

from data_prep.config import ReadConfig
from data_prep.images.formats import is_image_suffix
from data_prep.sources.names import split_suffix

SIDE_TABLE = "side table"
"""Why a table with columns of the images is ignored."""
METADATA_NAMES = frozenset(("metadata.csv", "metadata.tsv", "metadata.jsonl", "metadata.parquet"))
"""Names of tables with columns of the images beside them."""
HIDDEN_NAMES = frozenset(
    ("@eadir", "@tmp", "@recycle", "#recycle", "#snapshot", "$recycle.bin", "recycler", "system volume information")
    + ("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "lost+found", "network trash folder", "temporary items")
)
"""Files and folders (in lower case) that operating systems and network storages create beside the user's files."""
PACKED_SUFFIXES = (
    ".zip",
    ".tar",
    ".tgz",
    ".tbz2",
    ".txz",
    ".gz",
    ".bz2",
    ".xz",
    ".zst",
    ".tzst",
    ".lz4",
    ".7z",
    ".rar",
)
OTHER_SUFFIXES = frozenset(
    (".txt", ".caption", ".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow", ".feather", ".xml")
    + (".yaml", ".yml", ".toml", ".ini", ".cfg", ".conf", ".log", ".md", ".rst", ".html", ".htm", ".css", ".js", ".ts")
    + (".py", ".pyc", ".ipynb", ".sh", ".bat", ".c", ".h", ".cpp", ".java", ".go", ".rs", ".m", ".r", ".lock", ".sql")
    + (".pdf", ".ps", ".eps", ".ai", ".svg", ".svgz", ".doc", ".docx", ".odt", ".rtf", ".tex", ".epub", ".ppt", ".pptx")
    + (".xls", ".xlsx", ".ods", ".psd", ".psb", ".xcf", ".kra", ".clip", ".blend", ".indd", ".ico", ".cur", ".icns")
    + (".dng", ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".orf", ".rw2", ".pef", ".srw", ".raf", ".raw", ".3fr", ".iiq")
    + (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".mts", ".aae", ".thm")
    + (".mp3", ".m4a", ".wav", ".flac", ".ogg", ".opus", ".aac", ".wma", ".mid", ".srt", ".vtt", ".ass")
    + (
        ".npy",
        ".npz",
        ".pt",
        ".pth",
        ".ckpt",
        ".safetensors",
        ".onnx",
        ".pkl",
        ".pickle",
        ".h5",
        ".hdf5",
        ".mat",
        ".cls",
    )
    + (".mdb", ".lmdb", ".db", ".sqlite", ".tfrecord", ".tfrecords", ".rec", ".idx", ".index", ".lst", ".xmp", ".exif")
    + (".exe", ".dll", ".so", ".dylib", ".msi", ".dmg", ".iso", ".apk", ".deb", ".rpm", ".jar", ".ttf", ".otf", ".woff")
    + (".md5", ".sha1", ".sha256", ".asc", ".sig", ".torrent", ".url", ".lnk", ".part", ".crdownload", ".bak", ".swp")
)
"""Suffixes of files that are certainly not read as images. RAW files of cameras are among them, because the image that
Pillow finds in them is a small preview."""


@dataclass(frozen=True)
class Selection:
    """Which entries of a source are read, by their paths relative to it."""

    read: ReadConfig

    def reason_to_ignore(self, path: str) -> str | None:
        """Return why an entry is ignored, whatever kind of file or folder it is, or None.

        A folder that is excluded or hidden takes everything in it along.
        """
        if not self.read.include_hidden and any(is_hidden(part) for part in path.split("/")):
            return "hidden"
        return self.reason_to_exclude(path)

    def reason_to_exclude(self, path: str) -> str | None:
        """Return why an entry is ignored that ``exclude`` names, or a folder that it is in, or None."""
        if self._excluded:
            parts = path.split("/")
            if any(self._excluded.match("/".join(parts[: depth + 1])) for depth in range(len(parts))):
                return "excluded by pattern"
        return None

    def reason_to_leave_out(self, path: str) -> str | None:
        """Return why an image is ignored that ``include`` does not name, or None."""
        return "not included by pattern" if self._included and not self._included.match(path) else None

    @cached_property
    def _excluded(self) -> re.Pattern[str] | None:
        return _compile(pattern.rstrip("/") for pattern in self.read.exclude)

    @cached_property
    def _included(self) -> re.Pattern[str] | None:
        return _compile(self.read.include)


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is hidden, is a backup copy of an editor, or belongs to an operating system."""
    return (name.startswith(".") and name.strip(".") != "") or name.endswith("~") or name.lower() in HIDDEN_NAMES


def is_image_path(path: str) -> bool:
    """Return whether a path has an image suffix."""
    return is_image_suffix(split_suffix(path.rpartition("/")[2])[1])


def may_be_image(path: str) -> bool:
    """Return whether the suffix says nothing, so that only the content tells whether this is an image."""
    name = path.rpartition("/")[2].lower()
    return not (is_image_path(name) or name.endswith(PACKED_SUFFIXES) or split_suffix(name)[1] in OTHER_SUFFIXES)


def is_metadata_path(path: str) -> bool:
    """Return whether the file is a table with columns of the images beside it."""
    return path.rpartition("/")[2].lower() in METADATA_NAMES


def other_reason(path: str) -> str:
    """Return why a file is ignored that is not an image: its suffix, or what it is."""
    name = path.rpartition("/")[2].lower()
    if name.endswith(PACKED_SUFFIXES):
        return "nested archive"
    if is_metadata_path(name):
        return SIDE_TABLE
    # Numbers and longer texts after a dot are part of a name. As reasons, there would be too many of them.
    suffix = split_suffix(name)[1]
    return f"extension {suffix}" if re.fullmatch(r"\.(?=.*[a-z])[a-z0-9_]{1,10}", suffix) else "no extension"


def _compile(patterns: Iterable[str]) -> re.Pattern[str] | None:
    parts = [translate(pattern) for pattern in patterns]
    return re.compile("|".join(parts)) if parts else None
