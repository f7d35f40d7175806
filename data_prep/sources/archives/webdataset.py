"""Read existing webdataset shards in place.

The ``webdataset`` library is not used for this, because its pipelines read tars sequentially and completely. Preparing
needs a listing from headers (without the image bytes), the byte range of every member so that any worker can read any
sample, and one Reject for each bad sample or corrupt shard, where the library raises or drops the rest of the tar.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from data_prep.config import PrepareConfig, SourceConfig
from data_prep.errors import SampleRejected
from data_prep.records import Ignored, Listed, Record, Reject, Scalar
from data_prep.sources.archives.archive_files import ArchiveFile, ArchiveFiles
from data_prep.sources.archives.archive_reader import ArchiveReader
from data_prep.sources.archives.members import Member, Members
from data_prep.sources.archives.shard_files import find_shards
from data_prep.sources.archives.shard_samples import TEXT_SUFFIXES, Sample, is_companion, sample_name
from data_prep.sources.archives.tar import list_tar
from data_prep.sources.labels.captions import (
    UNREADABLE,
    caption_from_file,
    caption_from_value,
    caption_suffixes,
    is_caption_path,
    lookup,
)
from data_prep.sources.labels.text import TextError
from data_prep.sources.names import escape, hashed_key, is_valid_key, make_key, split_suffix
from data_prep.sources.selection import Selection, is_image_path, other_reason
from data_prep.sources.tables.columns import NOT_TEXT, non_empty, scalars, to_scalar


@dataclass(frozen=True)
class ShardSource:
    """Samples of webdataset tars: consecutive members that share their name up to the first dot.

    The image is the first member with an image suffix (``0.png`` is preferred to ``0.mask.png``). ``.json`` holds
    identity, caption and columns, ``.txt`` a caption that is preferred, ``.cls`` becomes a column of that name.
    """

    files: ArchiveFiles
    options: SourceConfig
    selection: Selection
    reader: ArchiveReader = field(compare=False)
    is_e4t_dataset: bool
    """Whether the shards were made by ``e4t prepare``; their sample names are keys already and are kept."""

    @classmethod
    def from_config(cls, config: PrepareConfig) -> "ShardSource":
        """Build the source from the configuration. Raises DataError if there is no shard."""
        selection = Selection(config.read)
        files, is_e4t_dataset = find_shards(config.source, selection)
        reader = ArchiveReader(files.tree)
        return cls(files, config.source_options, selection, reader, is_e4t_dataset=is_e4t_dataset)

    def __iter__(self) -> Iterator[Listed]:
        """List the samples shard by shard, in order; the names of one shard are held in memory.

        The other members of a sample are part of its entry. A corrupt shard yields one Reject after the samples that
        could be listed. Raises DataError for a missing shard.
        """
        yield from self.files.ignored
        for shard in self.files.archives:
            seen, ignored = set[str](), list[Ignored]()
            version = self.reader.version(shard.name)
            with self.reader.listing(shard.name, version) as file:
                members = self._drop_ignored(list_tar(file, version), shard, ignored)
                for name, group in groupby(members, sample_name):
                    if name is None:
                        yield shard.as_reject()
                    else:
                        yield from self._list_sample(Sample.from_members(name, group, file), shard, seen)
                    yield from ignored
                    ignored.clear()
                yield from ignored

    def read(self, record: Record) -> bytes:
        """Read the image file; see Source."""
        return self.reader.read_image(record)

    def caption(self, record: Record) -> str | None:
        """Return the caption from the caption member, or else that of the .json; see Source."""
        data = self.reader.read_caption(record)
        return (caption_from_file(data, self.options, record.key) if data else None) or record.caption

    def _drop_ignored(self, members: Members, shard: ArchiveFile, ignored: list[Ignored]) -> Members:
        """Yield the members that are not hidden or excluded, and add the others to ``ignored``."""
        for member in members:
            reason = self.selection.reason_to_ignore(member.name) if member else None
            if member and reason:
                ignored.append(Ignored(source=_source(shard, member.name), reason=reason))
            else:
                yield member

    def _list_sample(self, sample: Sample, shard: ArchiveFile, seen: set[str]) -> Iterator[Listed]:
        """List one sample: its images, what could be taken for further images, and members that an earlier one hides.

        ``seen`` contains the names of the samples of the shard so far.
        """
        if not sample.images:
            yield from self._list_without_image(sample, shard)
            return
        for suffix, picture in sample.split():
            yield self._list_picture(picture, suffix, shard, seen)
        pictures = sample.pictures()
        for suffix in sample.images:
            if suffix not in pictures:
                yield Ignored(source=_source(shard, sample.members[suffix].name), reason="further image in sample")
        for member in sample.repeated:
            if is_image_path(member.name):
                yield _duplicate(member, shard)
            else:
                yield Ignored(source=_source(shard, member.name), reason="duplicate name in archive")

    def _list_without_image(self, sample: Sample, shard: ArchiveFile) -> Iterator[Listed]:
        """List a sample without image: a gap if it has captions or metadata, else files that are of no interest."""
        if any(suffix.endswith(TEXT_SUFFIXES) or is_caption_path(suffix, self.options) for suffix in sample.members):
            # Members of one name may be scattered, so an image of this name may follow or have come before.
            first = next(iter(sample.members.values()))
            key = hashed_key(shard.key_prefix + sample.name, f"no image {first.location[0]}")
            yield Reject(key=key, source=_source(shard, sample.name), reason="no image in sample")
            return
        for member in (*sample.members.values(), *sample.repeated):
            yield Ignored(source=_source(shard, member.name), reason=other_reason(member.name))

    def _list_picture(self, sample: Sample, suffix: str, shard: ArchiveFile, seen: set[str]) -> Listed:
        """Return the entry of a sample with one image, and add its name to ``seen``."""
        image = sample.members[suffix]
        if left_out := self.selection.reason_to_leave_out(image.name):
            return Ignored(source=_source(shard, image.name), reason=left_out)
        names = [sample.name] if is_companion(suffix) else [sample.name, split_suffix(image.name)[0]]
        name = next((name for name in names if name not in seen), None)
        if name is None:
            return _duplicate(image, shard)
        seen.add(name)
        key = name if self.is_e4t_dataset and is_valid_key(name) else make_key(shard.key_prefix + name)
        return self._to_record(sample, suffix, key, shard)

    def _to_record(self, sample: Sample, suffix: str, key: str, shard: ArchiveFile) -> Record | Reject:
        image = sample.members[suffix]
        source = _source(shard, image.name)
        if image.problem:
            return Reject(key=key, source=source, reason=image.problem)
        try:
            return self._labelled_record(key, sample, suffix, shard, source)
        except TextError as error:
            return Reject(key=key, source=source, reason=NOT_TEXT, cause=str(error))
        except SampleRejected as error:
            return Reject.from_error(error, key=key, source=source)

    def _labelled_record(self, key: str, sample: Sample, suffix: str, shard: ArchiveFile, source: str) -> Record:
        """Build the record of a sample. Raises TextError and SampleRejected."""
        options, image = self.options, sample.members[suffix]
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
        caption_member = sample.caption(suffix, caption_suffixes(options)) if has_file else None
        if caption_member and caption_member.problem:
            raise SampleRejected(UNREADABLE, cause=caption_member.problem)
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


def _columns(metadata: dict[str, Any], class_label: Scalar, exclude: Iterable[str]) -> dict[str, Scalar]:
    """Collect the plain values of .json and .cls by name. Raises TextError."""
    # Shards made by e4t keep the columns of their source under this name.
    nested = metadata.get("columns")
    class_column = {} if class_label is None else {"cls": class_label}
    return scalars(metadata, exclude) | (scalars(nested) if isinstance(nested, dict) else {}) | class_column


def _source(shard: ArchiveFile, member_name: str) -> str:
    return escape(f"{shard.name}!{member_name}")


def _duplicate(image: Member, shard: ArchiveFile) -> Reject:
    key = hashed_key(shard.key_prefix + split_suffix(image.name)[0], f"copy {image.location[0]}")
    return Reject(key=key, source=_source(shard, image.name), reason="duplicate name in archive")
