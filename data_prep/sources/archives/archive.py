"""Read zip and tar archives of images in place, on the local disk or at any fsspec URL, without unpacking them."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from data_prep.config import PrepareConfig, SourceConfig
from data_prep.records import Ignored, Listed, Record, Reject
from data_prep.sources.archives.archive_files import ArchiveFile, ArchiveFiles, find_archives
from data_prep.sources.archives.archive_reader import ArchiveReader
from data_prep.sources.archives.members import Member
from data_prep.sources.labels.captions import CaptionFiles, caption_from_file, is_caption_path
from data_prep.sources.labels.labels import CaptionFile, Labels
from data_prep.sources.labels.metadata_files import Metadata, load_metadata, metadata_above
from data_prep.sources.names import Keys, escape, hashed_key, split_suffix
from data_prep.sources.selection import SIDE_TABLE, Selection, is_image_path, may_be_image, other_reason


@dataclass(frozen=True)
class ArchiveSource:
    """Every image in one archive, in the archives of a folder, or in those that match a pattern.

    Members of zip and uncompressed tar files are read by byte range. A compressed tar is decompressed sequentially,
    about once per worker. Nested archives and hidden members such as ``__MACOSX/._0.png`` are ignored.
    """

    files: ArchiveFiles
    options: SourceConfig
    selection: Selection
    reader: ArchiveReader = field(compare=False)

    @classmethod
    def from_config(cls, config: PrepareConfig) -> "ArchiveSource":
        """Build the source from the configuration. Raises DataError if there is no archive."""
        selection = Selection(config.read)
        files = find_archives(config.source, selection)
        return cls(files, config.source_options, selection, ArchiveReader(files.tree))

    def __iter__(self) -> Iterator[Listed]:
        """List the members archive by archive, in the order of the members; names of one archive are held in memory.

        A corrupt archive yields one Reject after the members that could be listed. The identity is taken from the path
        within the archive; with several archives, keys start with the archive name. Raises DataError for bad side
        tables and for archives that cannot be read.
        """
        labels = Labels.load(self.options, self.selection.read)
        yield from self.files.ignored
        for archive in self.files.archives:
            yield from self._list_archive(archive, labels)

    def read(self, record: Record) -> bytes:
        """Read the image file; see Source."""
        return self.reader.read_image(record)

    def caption(self, record: Record) -> str | None:
        """Return the caption from the caption member, or else that of the record; see Source."""
        data = self.reader.read_caption(record)
        return (caption_from_file(data, self.options, record.key) if data else None) or record.caption

    def _list_archive(self, archive: ArchiveFile, labels: Labels) -> Iterator[Listed]:
        members = list(self.reader.list_members(archive.name))
        reasons = [self._reason_to_ignore(archive.name, member) if member else None for member in members]
        metadata = self._load_metadata(archive.name, members, reasons)
        captions = self._find_captions(members, reasons)
        belonging = {member.name: member for found in captions.values() for member in found}
        keys, seen = Keys(), set[str]()
        for index, (member, reason) in enumerate(zip(members, reasons, strict=True)):
            if member is None:
                yield archive.as_reject()
                continue
            source = escape(f"{archive.name}!{member.name}")
            if member is belonging.get(member.name):
                continue
            if member.name in belonging:
                reason = "duplicate name in archive"
            reason = reason or self.selection.reason_to_leave_out(member.name)
            if reason is not None:
                yield Ignored(source=source, reason=reason)
                continue
            path, problem = archive.key_prefix + member.name, member.problem
            if member.name in seen:
                key, problem = hashed_key(split_suffix(path)[0], f"copy {index}"), "duplicate name in archive"
            else:
                key = keys.assign(path)
            seen.add(member.name)
            if problem:
                yield Reject(key=key, source=source, reason=problem)
                continue
            caption = next(iter(captions[member.name]), None)
            yield labels.to_record(
                member.name,
                key=key,
                source=source,
                location=(archive.name, *member.location),
                version=member.version,
                archive_folder=archive.key_prefix,
                caption_file=_caption_file(caption) if caption else None,
                metadata=metadata_above(member.name, metadata),
            )

    def _reason_to_ignore(self, archive: str, member: Member) -> str | None:
        """Return why a member is ignored, or None for an image."""
        reason = self.selection.reason_to_ignore(member.name)
        if reason or is_image_path(member.name):
            return reason
        if is_caption_path(member.name, self.options):
            return "caption without image"
        if may_be_image(member.name) and self.reader.looks_like_image(archive, member):
            return None
        return other_reason(member.name)

    def _load_metadata(
        self, archive: str, members: list[Member | None], reasons: list[str | None]
    ) -> dict[str, Metadata]:
        """Load the metadata files of an archive, by folder. Raises DataError."""
        tables = {
            member.name: member
            for member, reason in zip(members, reasons, strict=True)
            if member and reason == SIDE_TABLE and not member.problem
        }
        return load_metadata(
            tables, lambda name: self.reader.read_member(archive, tables[name]), self.options, f"{archive}!"
        )

    def _find_captions(self, members: list[Member | None], reasons: list[str | None]) -> dict[str, list[Member]]:
        """Return the caption members of each image, by its name; the one to be read first."""
        listed = [(member, reason) for member, reason in zip(members, reasons, strict=True) if member]
        candidates = {
            member.name: member for member, reason in listed if reason not in (None, "hidden", "excluded by pattern")
        }
        images = [member.name for member, reason in listed if reason is None]
        files = CaptionFiles(candidates, images, self.options)
        return {name: [candidates[caption] for caption in files.find_all(name)] for name in images}


def _caption_file(member: Member) -> CaptionFile:
    return CaptionFile(member.location, member.version, member.problem or "")
