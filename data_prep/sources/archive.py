"""Read zip and tar archives of images in place, on the local disk or at any fsspec URL, without unpacking them."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from data_prep.config import PrepareConfig, SourceConfig
from data_prep.records import Record, Reject
from data_prep.sources.archive_files import ArchiveFile, find_archives
from data_prep.sources.archive_reader import ArchiveReader
from data_prep.sources.captions import CaptionFiles, caption_from_file, is_caption_path
from data_prep.sources.labels import CaptionFile, Labels
from data_prep.sources.members import Member
from data_prep.sources.names import Keys, escape, hashed_key, is_image_path, split_suffix


@dataclass(frozen=True)
class ArchiveSource:
    """Every image in one archive, in the archives of a folder, or in those that match a pattern.

    Members of zip and uncompressed tar files are read by byte range. A compressed tar is decompressed sequentially,
    about once per worker. Nested archives and macOS metadata (``__MACOSX/``, ``._0.png``) are skipped.
    """

    archives: tuple[ArchiveFile, ...]
    options: SourceConfig
    reader: ArchiveReader = field(compare=False)

    @classmethod
    def from_config(cls, config: PrepareConfig) -> "ArchiveSource":
        """Build the source from the configuration. Raises DataError if there is no archive."""
        tree, archives = find_archives(config.source)
        return cls(archives, config.source_options, ArchiveReader(tree))

    def __iter__(self) -> Iterator[Record | Reject]:
        """List the images archive by archive, in the order of the members; names of one archive are held in memory.

        A corrupt archive yields one Reject after the members that could be listed. The identity is taken from the path
        within the archive; with several archives, keys start with the archive name. Raises DataError for bad side
        tables and for archives that cannot be read.
        """
        labels = Labels.load(self.options)
        for archive in self.archives:
            yield from self._list_archive(archive, labels)

    def read(self, record: Record) -> bytes:
        """Read the image file. Raises OSError, also if its size or checksum differs from the archive's directory."""
        return self.reader.read_image(record)

    def caption(self, record: Record) -> str | None:
        """Return the caption from the caption member, or else that of the record. Raises OSError and SampleRejected."""
        data = self.reader.read_caption(record)
        return (caption_from_file(data, self.options, record.key) if data else None) or record.caption

    def _list_archive(self, archive: ArchiveFile, labels: Labels) -> Iterator[Record | Reject]:
        members = [
            member for member in self.reader.list_members(archive.name) if member is None or self._is_relevant(member)
        ]
        captions = {member.name: member for member in members if member and not member.problem}
        caption_files = CaptionFiles(captions, filter(is_image_path, captions), self.options)
        keys, seen = Keys(), set[str]()
        for index, member in enumerate(members):
            if member is None:
                yield archive.as_reject()
                continue
            if not is_image_path(member.name):
                continue
            path, problem = archive.key_prefix + member.name, member.problem
            if member.name in seen:
                key, problem = hashed_key(split_suffix(path)[0], f"copy {index}"), "duplicate name in archive"
            else:
                key = keys.assign(path)
            seen.add(member.name)
            source = f"{archive.name}!{member.name}"
            if problem:
                yield Reject(key=key, source=escape(source), reason=problem)
                continue
            caption = captions.get(caption_files.find(member.name) or "")
            yield labels.to_record(
                member.name,
                key=key,
                source=source,
                location=(archive.name, *member.location),
                version=member.version,
                caption_file=CaptionFile(caption.location, caption.version) if caption else None,
            )

    def _is_relevant(self, member: Member) -> bool:
        return is_image_path(member.name) or is_caption_path(member.name, self.options)
