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
from data_prep.sources.archive_files import ArchiveFile, find_archives, with_unique_prefixes
from data_prep.sources.archive_reader import ArchiveReader
from data_prep.sources.columns import non_empty, parse_scalar, scalars, to_scalar
from data_prep.sources.filesystem import FileTree, is_file, open_parent, open_tree
from data_prep.sources.members import Member
from data_prep.sources.names import escape, hashed_key, is_image_path, is_valid_key, make_key
from data_prep.sources.tar import list_tar


@dataclass(frozen=True)
class Sample:
    """Members that belong together."""

    name: str
    members: dict[str, Member]
    """By suffix, from the name's first dot on."""
    metadata: dict[str, Any] | None
    """What .json says, nothing if there is none; None if it is no JSON object."""
    class_label: Scalar
    """What .cls says."""

    @classmethod
    def from_members(cls, name: str, members: Iterable[Member | None], file: BinaryIO) -> "Sample":
        """The sample, whose members the tar in ``file`` comes to next."""
        by_suffix, texts = dict[str, Member](), dict[str, bytes]()
        for member in members:
            if member is not None:
                suffix = _split_name(member.name)[1]
                by_suffix.setdefault(suffix, member)
                if suffix in (".json", ".cls"):
                    texts.setdefault(suffix, _read_text(member, file))
        class_label = parse_scalar(texts.get(".cls", b"").decode(errors="replace"))
        return cls(name, by_suffix, parse_json_object(texts.get(".json", b"{}")), class_label)

    @property
    def offset(self) -> int:
        """Where it begins."""
        return next(iter(self.members.values())).location[0]

    @property
    def image(self) -> Member | None:
        """The first with a picture's suffix, and as little before that as there is."""
        images = [(suffix, member) for suffix, member in self.members.items() if is_image_path(member.name)]
        return min(images, key=lambda found: found[0].count("."))[1] if images else None

    def columns(self, exclude: Iterable[str]) -> dict[str, Scalar]:
        """The rest of what the sample says, by name."""
        metadata = self.metadata or {}
        # Our own shards keep under this name what was known of the picture before.
        nested = metadata.get("columns")
        class_column = {} if self.class_label is None else {"cls": self.class_label}
        return scalars(metadata, exclude) | (scalars(nested) if isinstance(nested, dict) else {}) | class_column


MANIFEST_NAME = "manifest.json"


@dataclass(frozen=True)
class ShardSource:
    """Samples of tars: neighbours that share their name up to the first dot, as webdataset has it.

    The picture is the sample's first member with a picture's suffix (``0.png`` before ``0.mask.png``). ``.json`` has
    identity, caption and columns, ``.txt`` the caption, ``.cls`` a column of that name.
    """

    shards: tuple[ArchiveFile, ...]
    options: SourceConfig
    reader: ArchiveReader = field(compare=False)
    is_e4t_dataset: bool
    """Whether it is a set of ours, in which names are keys: they stay what they are."""

    @classmethod
    def from_config(cls, config: PrepareConfig) -> "ShardSource":
        """The configured source. Raises DataError if there is no shard."""
        tree, shards = find_shards(config.source)
        return cls(shards, config.source_options, ArchiveReader(tree), is_e4t_dataset=has_manifest(tree))

    def __iter__(self) -> Iterator[Record | Reject]:
        """Samples shard by shard, in each one's order; a shard's names are in memory while it is listed.

        A shard that is damaged is a Reject, after what could be listed of it. Raises DataError if one is missing.
        """
        for shard in self.shards:
            seen = set[str]()
            with self.reader.open_stream(shard.name) as file:
                for name, members in groupby(list_tar(file, self.reader.version(shard.name)), sample_name):
                    if name is None:
                        yield shard.as_reject()
                    elif name:
                        yield self._to_record(Sample.from_members(name, members, file), shard, name in seen)
                        seen.add(name)

    def read(self, record: Record) -> bytes:
        """The picture's bytes. Raises OSError."""
        return self.reader.read_image(record)

    def caption(self, record: Record) -> str | None:
        """The first line of the sample's text, else the caption that stands in its .json. Raises OSError."""
        return self.reader.read_caption(record)

    def _to_record(self, sample: Sample, shard: ArchiveFile, duplicate: bool) -> Record | Reject:
        name, source = shard.key_prefix + sample.name, escape(f"{shard.name}!{sample.name}")
        if duplicate:
            key = hashed_key(name, f"copy {sample.offset}")
            return Reject(key=key, source=source, reason="duplicate name in archive")
        key, image = name if self.is_e4t_dataset and is_valid_key(name) else make_key(name), sample.image
        if image is None:
            return Reject(key=key, source=source, reason="no picture in sample")
        if image.problem or sample.metadata is None:
            return Reject(key=key, source=source, reason=image.problem or "bad json in sample")
        identity_column, caption_column = self.options.identity_column, self.options.caption_column or "caption"
        identity = non_empty(to_scalar(sample.metadata.get(identity_column or "identity")))
        if identity is None and identity_column:
            return Reject(key=key, source=source, reason="no identity in sample")
        caption_member = sample.members.get(self.options.caption_suffix.lower())
        return Record(
            key=key,
            identity=identity or key,
            source=source,
            location=(
                shard.name,
                *image.location,
                *(caption_member.location if caption_member and not caption_member.problem else ()),
            ),
            version=image.version,
            caption=non_empty(to_scalar(sample.metadata.get(caption_column))),
            columns=sample.columns(exclude=(identity_column or "identity", caption_column)),
        )


def find_shards(source: str) -> tuple[FileTree, tuple[ArchiveFile, ...]]:
    """The shards of a brace pattern, of a set of ours, or as ``find_archives`` has it.

    Raises DataError if there is none.
    """
    if "{" in source:
        fixed, brace, rest = source.partition("{")
        tree, prefix = open_parent(fixed)
        return tree, with_unique_prefixes(list(_expand_braces(prefix + brace + rest)))
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
    return tree, with_unique_prefixes(shards)


def has_manifest(tree: FileTree) -> bool:
    """Whether this is the folder of a set of ours."""
    if not is_file(tree, MANIFEST_NAME):
        return False
    manifest = parse_json_object(tree.read(MANIFEST_NAME))
    return manifest is not None and {"splits", "config_digest"} <= manifest.keys()


def _expand_braces(pattern: str) -> Iterator[str]:
    """Names of a pattern with braces, ``{000..041}`` or ``{a,b}``, in which the first varies slowest."""
    braces = re.search(r"\{([^{}]+)\}", pattern)
    if braces is None:
        yield pattern
        return
    number_range = re.fullmatch(r"(\d+)\.\.(\d+)", braces[1])
    width = (
        max(len(number_range[1]), len(number_range[2]))
        if number_range and "0" in (number_range[1][0], number_range[2][0])
        else 0
    )
    numbers = range(int(number_range[1]), int(number_range[2]) + 1) if number_range else ()
    for choice in [f"{number:0{width}d}" for number in numbers] if number_range else braces[1].split(","):
        yield from _expand_braces(pattern[: braces.start()] + choice + pattern[braces.end() :])


MAX_TEXT_BYTES = 2**20
"""A longer .json is none that says something about one picture."""


def _split_name(path: str) -> tuple[str, str]:
    """A member's sample and suffix: ``a.b/0.mask.PNG`` is ``a.b/0`` and ``.mask.png``."""
    folder, slash, name = path.rpartition("/")
    name, dot, suffix = name.partition(".")
    return (folder + slash + name, (dot + suffix).lower()) if name and dot else ("", "")


def sample_name(member: Member | None) -> str | None:
    """What groups samples: None for a damage, nothing for what is no part of a sample."""
    return None if member is None else _split_name(member.name)[0]


def _read_text(member: Member, file: BinaryIO) -> bytes:
    """A small member, read while the listing stands at it; nothing if it cannot be."""
    if member.problem or member.size > MAX_TEXT_BYTES:
        return b""
    try:
        file.seek(member.location[0])
        return file.read(member.size)
    except DataError:
        raise
    except Exception:  # a damaged stream, at which the listing will end too
        return b""


def parse_json_object(data: bytes) -> dict[str, Any] | None:
    """The object that is in a file; None if there is no such thing in it."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
