"""Read existing webdataset shards in place.

The ``webdataset`` library is not used for this, because its pipelines read tars sequentially and completely. Preparing
needs a listing from headers (without the image bytes), the byte range of every member so that any worker can read any
sample, and one Reject for each bad sample or corrupt shard, where the library raises or drops the rest of the tar.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, BinaryIO

from braceexpand import braceexpand

from data_prep.config import MANIFEST_NAME, PrepareConfig, SourceConfig
from data_prep.errors import DataError, SampleRejected
from data_prep.records import Record, Reject, Scalar
from data_prep.sources.archive_files import ArchiveFile, find_archives, with_unique_prefixes
from data_prep.sources.archive_reader import ArchiveReader
from data_prep.sources.captions import caption_from_file, caption_from_value, caption_suffixes, lookup
from data_prep.sources.columns import NOT_TEXT, non_empty, parse_scalar, scalars, to_scalar
from data_prep.sources.filesystem import FileTree, is_file, open_parent, open_tree
from data_prep.sources.members import Member
from data_prep.sources.names import escape, hashed_key, is_image_path, is_valid_key, make_key
from data_prep.sources.tar import list_tar
from data_prep.sources.text import TextError, decode_text


@dataclass(frozen=True)
class Sample:
    """Consecutive members that share their name up to the first dot."""

    name: str
    """Path in the shard, without suffix."""
    members: dict[str, Member]
    """Members by suffix, which starts at the first dot of the file name."""
    texts: dict[str, bytes]
    """Content of the members .json and .cls."""

    @classmethod
    def from_members(cls, name: str, members: Iterable[Member | None], file: BinaryIO) -> "Sample":
        """Build the sample from its members; ``file`` is the tar, positioned at the first of them."""
        by_suffix, texts = dict[str, Member](), dict[str, bytes]()
        for member in members:
            if member is not None:
                suffix = _split_name(member.name)[1]
                by_suffix.setdefault(suffix, member)
                if suffix in (".json", ".cls"):
                    texts.setdefault(suffix, _read_text(member, file))
        return cls(name, by_suffix, texts)

    def metadata(self, fallback: str | None) -> dict[str, Any] | None:
        """Return the content of the .json member: empty if there is none, None if it is not a JSON object.

        Raises TextError if it cannot be decoded; ``fallback`` is its encoding if it is not UTF-8.
        """
        return parse_json_object(decode_text(self.texts.get(".json", b"{}"), fallback))

    def class_label(self, fallback: str | None) -> Scalar:
        """Return the content of the .cls member. Raises TextError."""
        return parse_scalar(decode_text(self.texts.get(".cls", b""), fallback))

    @property
    def offset(self) -> int:
        """Offset of the first member in the tar."""
        return next(iter(self.members.values())).location[0]

    @property
    def image(self) -> Member | None:
        """First member with an image suffix; one with fewer dots before that suffix comes first."""
        images = [(suffix, member) for suffix, member in self.members.items() if is_image_path(member.name)]
        return min(images, key=lambda item: item[0].count("."))[1] if images else None

    def caption(self, suffixes: Iterable[str]) -> Member | None:
        """Return the member with the caption: ``0.jpg.txt`` or else ``0.txt``."""
        image_suffix = _split_name(self.image.name)[1] if self.image else ""
        names = (prefix + suffix.lower() for prefix in (image_suffix, "") for suffix in suffixes)
        found = (self.members[name] for name in names if name in self.members)
        return next((member for member in found if not member.problem), None)


def _columns(metadata: dict[str, Any], class_label: Scalar, exclude: Iterable[str]) -> dict[str, Scalar]:
    """Collect the plain values of .json and .cls by name. Raises TextError."""
    # Shards made by e4t keep the columns of their source under this name.
    nested = metadata.get("columns")
    class_column = {} if class_label is None else {"cls": class_label}
    return scalars(metadata, exclude) | (scalars(nested) if isinstance(nested, dict) else {}) | class_column


@dataclass(frozen=True)
class ShardSource:
    """Samples of webdataset tars: consecutive members that share their name up to the first dot.

    The image is the first member with an image suffix (``0.png`` is preferred to ``0.mask.png``). ``.json`` holds
    identity, caption and columns, ``.txt`` a caption that is preferred, ``.cls`` becomes a column of that name.
    """

    shards: tuple[ArchiveFile, ...]
    options: SourceConfig
    reader: ArchiveReader = field(compare=False)
    is_e4t_dataset: bool
    """Whether the shards were made by ``e4t prepare``; their sample names are keys already and are kept."""

    @classmethod
    def from_config(cls, config: PrepareConfig) -> "ShardSource":
        """Build the source from the configuration. Raises DataError if there is no shard."""
        tree, shards = find_shards(config.source)
        return cls(shards, config.source_options, ArchiveReader(tree), is_e4t_dataset=has_manifest(tree))

    def __iter__(self) -> Iterator[Record | Reject]:
        """List the samples shard by shard, in order; the names of one shard are held in memory.

        A corrupt shard yields one Reject after the samples that could be listed. Raises DataError for a missing shard.
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
        """Read the image file. Raises OSError."""
        return self.reader.read_image(record)

    def caption(self, record: Record) -> str | None:
        """Return the caption from the caption member, or else that of the .json. Raises OSError and SampleRejected."""
        data = self.reader.read_caption(record)
        return (caption_from_file(data, self.options, record.key) if data else None) or record.caption

    def _to_record(self, sample: Sample, shard: ArchiveFile, duplicate: bool) -> Record | Reject:
        name, source = shard.key_prefix + sample.name, escape(f"{shard.name}!{sample.name}")
        if duplicate:
            key = hashed_key(name, f"copy {sample.offset}")
            return Reject(key=key, source=source, reason="duplicate name in archive")
        key, image = name if self.is_e4t_dataset and is_valid_key(name) else make_key(name), sample.image
        if image is None:
            return Reject(key=key, source=source, reason="no image in sample")
        if image.problem:
            return Reject(key=key, source=source, reason=image.problem)
        try:
            return self._labelled_record(key, sample, image, shard, source)
        except TextError as error:
            return Reject(key=key, source=source, reason=NOT_TEXT, cause=str(error))
        except SampleRejected as error:
            return Reject(key=key, source=source, reason=error.reason, cause=error.cause)

    def _labelled_record(self, key: str, sample: Sample, image: Member, shard: ArchiveFile, source: str) -> Record:
        """Build the record of a sample. Raises TextError and SampleRejected."""
        options = self.options
        metadata = sample.metadata(options.fallback_encoding)
        if metadata is None:
            raise SampleRejected("bad json in sample")
        identity_column, caption_column = options.identity_column or "identity", options.caption_column or "caption"
        identity = non_empty(to_scalar(lookup(metadata, identity_column)))
        if identity is None and options.identity_column:
            raise SampleRejected("no identity in sample")
        caption = caption_from_value(lookup(metadata, caption_column), options, key)
        # A caption from the configured column is preferred to the caption member.
        has_file = not (options.has_json_captions or (caption and options.caption_column))
        caption_member = sample.caption(caption_suffixes(options)) if has_file else None
        return Record(
            key=key,
            identity=identity or key,
            source=source,
            location=(shard.name, *image.location, *(caption_member.location if caption_member else ())),
            version=image.version,
            caption=caption,
            has_caption=True if caption or caption_member else False if options.expects_captions else None,
            columns=_columns(
                metadata, sample.class_label(options.fallback_encoding), exclude=(identity_column, caption_column)
            ),
        )


def find_shards(source: str) -> tuple[FileTree, tuple[ArchiveFile, ...]]:
    """Return the shards of a brace pattern, of a dataset made by e4t, or those that ``find_archives`` finds.

    Raises DataError if there is none.
    """
    if "{" in source:
        fixed, brace, rest = source.partition("{")
        tree, prefix = open_parent(fixed)
        try:
            names = list(braceexpand(prefix + brace + rest, escape=False))
        except ValueError as error:
            raise DataError(
                f"source {source}: braces are not balanced; give a pattern like {{000..041}}.tar"
            ) from error
        return tree, with_unique_prefixes(names)
    tree = open_tree(source)
    if has_manifest(tree):
        from data_prep.shards.manifest import Manifest

        splits = Manifest.load(source).splits
        names = [f"{split}/{shard.name}" for split, shards in splits.items() for shard in shards if shard.samples]
        return tree, tuple(ArchiveFile(name, "") for name in names)  # keys are unique within a dataset
    tree, archives = find_archives(source)
    shards = [archive.name for archive in archives if not archive.name.lower().endswith(".zip")]
    if not shards:
        raise DataError(f"source {source}: no shard; give a .tar, a brace pattern, or the folder of a dataset")
    return tree, with_unique_prefixes(shards)


def has_manifest(tree: FileTree) -> bool:
    """Return whether this is the folder of a dataset that ``e4t prepare`` made."""
    if not is_file(tree, MANIFEST_NAME):
        return False
    manifest = parse_json_object(tree.read(MANIFEST_NAME))
    return manifest is not None and {"splits", "config_digest"} <= manifest.keys()


MAX_TEXT_BYTES = 2**20
"""Limit of a .json or .cls member in bytes; longer ones count as invalid."""


def _split_name(path: str) -> tuple[str, str]:
    """Split a member name into sample and suffix: ``a.b/0.mask.PNG`` becomes ``a.b/0`` and ``.mask.png``."""
    folder, slash, name = path.rpartition("/")
    name, dot, suffix = name.partition(".")
    return (folder + slash + name, (dot + suffix).lower()) if name and dot else ("", "")


def sample_name(member: Member | None) -> str | None:
    """Return the name that groups members into samples: None for corrupt data, empty for a member of no sample."""
    return None if member is None else _split_name(member.name)[0]


def _read_text(member: Member, file: BinaryIO) -> bytes:
    """Read a small member while the listing is at its position; empty if that fails."""
    if member.problem or member.size > MAX_TEXT_BYTES:
        return b""
    try:
        file.seek(member.location[0])
        return file.read(member.size)
    except DataError:
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
