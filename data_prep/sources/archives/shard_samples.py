"""Group the members of a webdataset shard into samples, and tell which of their members are the images."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from data_prep.errors import DataError, SampleRejected
from data_prep.images.formats import SNIFFED_BYTES, is_image_suffix, looks_like_image
from data_prep.records import Scalar
from data_prep.sources.archives.members import Member
from data_prep.sources.labels.text import decode_text
from data_prep.sources.selection import may_be_image
from data_prep.sources.tables.columns import parse_scalar

MAX_TEXT_BYTES = 2**20
"""Limit of a .json or .cls member in bytes; longer ones count as invalid."""
TEXT_SUFFIXES = (".json", ".cls")
COMPANIONS = frozenset(
    ("mask", "masks", "depth", "seg", "segmentation", "alpha", "matte", "trimap", "normal", "normals", "edge", "edges")
    + ("canny", "hed", "lineart", "sketch", "pose", "openpose", "skeleton", "label", "labels", "parsing", "saliency")
    + ("cond", "condition", "conditioning", "control", "thumb", "thumbnail", "preview")
)
"""Parts of names, such as ``0.mask.png``, of images that belong to another image."""


@dataclass(frozen=True)
class Sample:
    """Consecutive members that share their name up to the first dot."""

    name: str
    """Path in the shard, without suffix."""
    members: dict[str, Member]
    """Members by suffix, which starts at the first dot of the file name."""
    texts: dict[str, bytes] = field(default_factory=dict)
    """Contents of the .json and .cls members, by suffix."""
    repeated: tuple[Member, ...] = ()
    """Members whose suffix an earlier member has, too."""
    unnamed_images: frozenset[str] = frozenset()
    """Suffixes that say nothing, of members that are images by their content."""

    @classmethod
    def from_members(cls, name: str, members: Iterable[Member | None], file: BinaryIO) -> "Sample":
        """Build the sample from its members; ``file`` is the tar, positioned at the first of them."""
        by_suffix, texts = dict[str, Member](), dict[str, bytes]()
        repeated, unnamed = list[Member](), set[str]()
        for member in members:
            if member is None:
                continue
            suffix = split_name(member.name)[1]
            if suffix in by_suffix:
                repeated.append(member)
                continue
            by_suffix[suffix] = member
            if suffix.endswith(TEXT_SUFFIXES):
                texts[suffix] = _read_text(member, file)
            elif may_be_image(member.name) and _is_image(member, file):
                unnamed.add(suffix)
        return cls(name, by_suffix, texts, tuple(repeated), frozenset(unnamed))

    def metadata(self, fallback: str | None) -> dict[str, Any] | None:
        """Return the content of the .json member: empty if there is none, None if it is not a JSON object.

        Raises TextError if it cannot be decoded; ``fallback`` is its encoding if it is not UTF-8.
        """
        return parse_json_object(decode_text(self.texts.get(".json", b"{}"), fallback))

    def class_label(self, fallback: str | None) -> Scalar:
        """Return the content of the .cls member. Raises TextError."""
        return parse_scalar(decode_text(self.texts.get(".cls", b""), fallback))

    def caption(self, image: str, suffixes: Iterable[str]) -> Member | None:
        """Return the member with the caption of the image with this suffix: ``0.jpg.txt`` or else ``0.txt``."""
        names = (prefix + suffix.lower() for prefix in (image, "") for suffix in suffixes)
        return next((self.members[name] for name in names if name in self.members), None)

    @property
    def images(self) -> list[str]:
        """Suffixes of all members that are images, those with the suffix of an image first."""
        named = [suffix for suffix in self.members if _names_image(suffix)]
        return named + [suffix for suffix in self.members if suffix in self.unnamed_images]

    def pictures(self) -> list[str]:
        """Return the suffixes of the images that become images of the dataset.

        This is the first one with a single suffix (``0.png``, but not ``0.mask.png``). If all have further dots, these
        belong to their names (``img.2.0.jpg``, ``img.2.1.jpg``), so each is an image, except companions such as masks.
        """
        images = [suffix for suffix in self.images if _names_image(suffix)] or self.images
        single = [suffix for suffix in images if suffix.count(".") <= 1]
        if single:
            return single[:1]
        return [suffix for suffix in images if not is_companion(suffix)] or images[:1]

    def split(self) -> Iterator[tuple[str, "Sample"]]:
        """Yield each picture as a sample of its own, with the suffix of its image in that sample.

        A sample with several pictures is split: ``img.2.0.txt`` belongs to ``img.2.0.jpg``, ``img.txt`` to all of them.
        """
        pictures = self.pictures()
        if len(pictures) == 1:
            yield pictures[0], self
            return
        for suffix in pictures:
            yield self._picture(suffix)

    def _picture(self, suffix: str) -> tuple[str, "Sample"]:
        """Return one image and the members that share its whole name as a sample, after the suffix of the image."""
        stem, _, ending = suffix.rpartition(".")
        own = {name: f".{name[len(stem) + 1 :]}" for name in self.members if name.startswith(f"{stem}.")}
        shared = {name: name for name in self.members if name.count(".") == 1 and name not in self.images}
        names = {new: old for old, new in (shared | own).items()}
        texts = {new: self.texts[old] for new, old in names.items() if old in self.texts}
        members = {new: self.members[old] for new, old in names.items()}
        return f".{ending}", Sample(self.name + stem, members, texts)


def split_name(path: str) -> tuple[str, str]:
    """Split a member name into sample and suffix: ``a.b/0.mask.PNG`` becomes ``a.b/0`` and ``.mask.png``."""
    folder, slash, name = path.rpartition("/")
    start = len(name) - len(name.lstrip("."))
    stem, dot, suffix = name[start:].partition(".")
    return folder + slash + name[:start] + stem, (dot + suffix).lower()


def is_companion(suffix: str) -> bool:
    """Return whether an image with this suffix, such as ``.mask.png``, belongs to another image."""
    return suffix.count(".") > 1 and suffix.split(".")[-2] in COMPANIONS


def sample_name(member: Member | None) -> str | None:
    """Return the name that groups members into samples; None for corrupt data."""
    return None if member is None else split_name(member.name)[0]


def _names_image(suffix: str) -> bool:
    return is_image_suffix(PurePosixPath(f"_{suffix}").suffix)


def _read_text(member: Member, file: BinaryIO) -> bytes:
    """Read a small member while the listing is at its position; empty if that fails."""
    if member.problem or member.size > MAX_TEXT_BYTES:
        return b""
    return _read(member, file, member.size)


def _is_image(member: Member, file: BinaryIO) -> bool:
    """Tell by the content whether a member is an image; one that must not be read counts."""
    return bool(member.problem) or looks_like_image(_read(member, file, min(member.size, SNIFFED_BYTES)))


def _read(member: Member, file: BinaryIO, size: int) -> bytes:
    try:
        file.seek(member.location[0])
        return file.read(size)
    except (DataError, SampleRejected):  # a failed read, not a corrupt archive
        raise
    except Exception:  # a corrupt stream, at which the listing will end, too
        return b""


def parse_json_object(data: bytes | str) -> dict[str, Any] | None:
    """Parse a JSON object; None if the data is anything else."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
