"""Webdataset shards that are there already, read in place."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, BinaryIO

from data_prep.config import PrepareConfig, SourceConfig
from data_prep.errors import DataError
from data_prep.records import Record, Reject, Scalar
from data_prep.sources.archive_files import ArchiveFile, find_archives, told_apart
from data_prep.sources.archive_reader import ArchiveReader
from data_prep.sources.columns import filled, number_or_text, plain, scalars
from data_prep.sources.filesystem import Tree, is_file, open_parent, open_tree
from data_prep.sources.members import Member
from data_prep.sources.names import hashed_key, is_key, is_picture, key_of, printable
from data_prep.sources.tar import list_tar


@dataclass(frozen=True)
class Sample:
    """Members that belong together."""

    name: str
    members: dict[str, Member]
    """By suffix, from the name's first dot on."""
    about: dict[str, Any] | None
    """What .json says, nothing if there is none; None if it is no JSON object."""
    label: Scalar
    """What .cls says."""

    @classmethod
    def of(cls, name: str, members: Iterable[Member | None], file: BinaryIO) -> "Sample":
        """The sample, whose members the tar in ``file`` comes to next."""
        found, texts = dict[str, Member](), dict[str, bytes]()
        for member in members:
            if member is not None:
                suffix = _split(member.name)[1]
                found.setdefault(suffix, member)
                if suffix in (".json", ".cls"):
                    texts.setdefault(suffix, _text(member, file))
        label = number_or_text(texts.get(".cls", b"").decode(errors="replace"))
        return cls(name, found, json_object(texts.get(".json", b"{}")), label)

    @property
    def start(self) -> int:
        """Where it begins."""
        return next(iter(self.members.values())).place[0]

    @property
    def picture(self) -> Member | None:
        """The first with a picture's suffix, and as little before that as there is."""
        pictures = [(suffix, member) for suffix, member in self.members.items() if is_picture(member.name)]
        return min(pictures, key=lambda found: found[0].count("."))[1] if pictures else None

    def columns(self, without: Iterable[str]) -> dict[str, Scalar]:
        """The rest of what the sample says, by name."""
        about = self.about or {}
        # Our own shards keep under this name what was known of the picture before.
        nested = about.get("columns")
        label = {} if self.label is None else {"cls": self.label}
        return scalars(about, without) | (scalars(nested) if isinstance(nested, dict) else {}) | label


MANIFEST = "manifest.json"


@dataclass(frozen=True)
class ShardSource:
    """Samples of tars: neighbours that share their name up to the first dot, as webdataset has it.

    The picture is the sample's first member with a picture's suffix (``0.png`` before ``0.mask.png``). ``.json`` has
    identity, caption and columns, ``.txt`` the caption, ``.cls`` a column of that name.
    """

    shards: tuple[ArchiveFile, ...]
    settings: SourceConfig
    reader: ArchiveReader = field(compare=False)
    ours: bool
    """Whether it is a set of ours, in which names are keys: they stay what they are."""

    @classmethod
    def of(cls, config: PrepareConfig) -> "ShardSource":
        """The configured source. Raises DataError if there is no shard."""
        tree, shards = find_shards(config.source)
        return cls(shards, config.source_options, ArchiveReader(tree), ours=has_manifest(tree))

    def __iter__(self) -> Iterator[Record | Reject]:
        """Samples shard by shard, in each one's order; a shard's names are in memory while it is listed.

        A shard that is damaged is a Reject, after what could be listed of it. Raises DataError if one is missing.
        """
        for shard in self.shards:
            seen = set[str]()
            with self.reader.opened(shard.name) as file:
                for name, members in groupby(list_tar(file, self.reader.stamp(shard.name)), sample_name):
                    if name is None:
                        yield shard.broken()
                    elif name:
                        yield self._item(Sample.of(name, members, file), shard, name in seen)
                        seen.add(name)

    def read(self, record: Record) -> bytes:
        """The picture's bytes. Raises OSError."""
        return self.reader.picture(record)

    def caption(self, record: Record) -> str | None:
        """The first line of the sample's text, else the caption that stands in its .json. Raises OSError."""
        return self.reader.caption(record)

    def _item(self, sample: Sample, shard: ArchiveFile, again: bool) -> Record | Reject:
        name, source = shard.prefix + sample.name, printable(f"{shard.name}!{sample.name}")
        if again:
            key = hashed_key(name, f"copy {sample.start}")
            return Reject(key=key, source=source, reason="duplicate name in archive")
        key, picture = name if self.ours and is_key(name) else key_of(name), sample.picture
        if picture is None:
            return Reject(key=key, source=source, reason="no picture in sample")
        if picture.fault or sample.about is None:
            return Reject(key=key, source=source, reason=picture.fault or "bad json in sample")
        identity_column, caption_column = self.settings.identity_column, self.settings.caption_column or "caption"
        identity = filled(plain(sample.about.get(identity_column or "identity")))
        if identity is None and identity_column:
            return Reject(key=key, source=source, reason="no identity in sample")
        text = sample.members.get(self.settings.caption_suffix.lower())
        return Record(
            key=key,
            identity=identity or key,
            source=source,
            location=(shard.name, *picture.place, *(text.place if text and not text.fault else ())),
            version=picture.stamp,
            caption=filled(plain(sample.about.get(caption_column))),
            columns=sample.columns(without=(identity_column or "identity", caption_column)),
        )


def find_shards(source: str) -> tuple[Tree, tuple[ArchiveFile, ...]]:
    """The shards of a brace pattern, of a set of ours, or as ``find_archives`` has it.

    Raises DataError if there is none.
    """
    if "{" in source:
        fixed, brace, rest = source.partition("{")
        tree, begin = open_parent(fixed)
        return tree, told_apart(list(_expanded(begin + brace + rest)))
    tree = open_tree(source)
    if has_manifest(tree):
        from data_prep.shards.manifest import Manifest

        splits = Manifest.load(source).splits
        names = [f"{split}/{shard.name}" for split, shards in splits.items() for shard in shards if shard.samples]
        return tree, tuple(ArchiveFile(name, "") for name in names)  # keys differ throughout a set
    tree, archives = find_archives(source)
    shards = [archive.name for archive in archives if not archive.name.lower().endswith(".zip")]
    if not shards:
        raise DataError(f"source {source}: no shard; give a .tar, a brace pattern, or the folder of a set")
    return tree, told_apart(shards)


def has_manifest(tree: Tree) -> bool:
    """Whether this is the folder of a set of ours."""
    if not is_file(tree, MANIFEST):
        return False
    manifest = json_object(tree.read(MANIFEST))
    return manifest is not None and {"splits", "config_digest"} <= manifest.keys()


def _expanded(pattern: str) -> Iterator[str]:
    """Names of a pattern with braces, ``{000..041}`` or ``{a,b}``, in which the first varies slowest."""
    braces = re.search(r"\{([^{}]+)\}", pattern)
    if braces is None:
        yield pattern
        return
    span = re.fullmatch(r"(\d+)\.\.(\d+)", braces[1])
    width = max(len(span[1]), len(span[2])) if span and "0" in (span[1][0], span[2][0]) else 0
    numbers = range(int(span[1]), int(span[2]) + 1) if span else ()
    for choice in [f"{number:0{width}d}" for number in numbers] if span else braces[1].split(","):
        yield from _expanded(pattern[: braces.start()] + choice + pattern[braces.end() :])


MAX_TEXT_BYTES = 2**20
"""A longer .json is none that says something about one picture."""


def _split(path: str) -> tuple[str, str]:
    """A member's sample and suffix: ``a.b/0.mask.PNG`` is ``a.b/0`` and ``.mask.png``."""
    folder, slash, name = path.rpartition("/")
    name, dot, suffix = name.partition(".")
    return (folder + slash + name, (dot + suffix).lower()) if name and dot else ("", "")


def sample_name(member: Member | None) -> str | None:
    """What groups samples: None for a damage, nothing for what is no part of a sample."""
    return None if member is None else _split(member.name)[0]


def _text(member: Member, file: BinaryIO) -> bytes:
    """A small member, read while the listing stands at it; nothing if it cannot be."""
    if member.fault or member.size > MAX_TEXT_BYTES:
        return b""
    try:
        file.seek(member.place[0])
        return file.read(member.size)
    except DataError:
        raise
    except Exception:  # a damaged stream, at which the listing will end too
        return b""


def json_object(data: bytes) -> dict[str, Any] | None:
    """The object that is in a file; None if there is no such thing in it."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
