"""Archives of pictures, here or at any URL that fsspec opens, read in place: nothing is ever unpacked."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from data_prep.config import PrepareConfig, SourceConfig
from data_prep.records import Record, Reject
from data_prep.sources.archive_files import ArchiveFile, find_archives
from data_prep.sources.archive_reader import ArchiveReader
from data_prep.sources.labels import Labels
from data_prep.sources.members import Member
from data_prep.sources.names import Keys, caption_path, escape, hashed_key, is_image_path, split_suffix


@dataclass(frozen=True)
class ArchiveSource:
    """Every picture in one archive, in those of a folder, or in those that a pattern finds.

    Zip and plain tar members are read by their ranges. A compressed tar is read forwards, so each worker decompresses
    it about once. Archives within archives and what macOS adds (``__MACOSX/``, ``._0.png``) are passed over.
    """

    archives: tuple[ArchiveFile, ...]
    options: SourceConfig
    reader: ArchiveReader = field(compare=False)

    @classmethod
    def from_config(cls, config: PrepareConfig) -> "ArchiveSource":
        """The configured source. Raises DataError if there is no archive."""
        tree, archives = find_archives(config.source)
        return cls(archives, config.source_options, ArchiveReader(tree))

    def __iter__(self) -> Iterator[Record | Reject]:
        """Pictures archive by archive, in each one's own order. An archive's names are in memory while it is listed.

        An archive that is damaged is a Reject, after what could be listed of it. Paths within the archive name the
        identity; with several archives, keys begin with the archive's name. Raises DataError for bad side tables.
        """
        labels = Labels.load(self.options)
        for archive in self.archives:
            yield from self._list_archive(archive, labels)

    def read(self, record: Record) -> bytes:
        """The picture's bytes. Raises OSError, also where they are not as the archive declares them."""
        return self.reader.read_image(record)

    def caption(self, record: Record) -> str | None:
        """The first line of the member beside the picture, else what the attributes say. Raises OSError."""
        return self.reader.read_caption(record)

    def _list_archive(self, archive: ArchiveFile, labels: Labels) -> Iterator[Record | Reject]:
        members = [
            member for member in self.reader.list_members(archive.name) if member is None or self._is_relevant(member)
        ]
        captions = {member.name: member for member in members if member and not member.problem}
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
            caption_member = captions.get(caption_path(member.name, self.options.caption_suffix))
            location: tuple[str | int, ...] = (
                archive.name,
                *member.location,
                *(caption_member.location if caption_member else ()),
            )
            version = f"{member.version}+{caption_member.version}" if caption_member else member.version
            yield labels.to_record(member.name, key=key, source=source, location=location, version=version)

    def _is_relevant(self, member: Member) -> bool:
        return is_image_path(member.name) or member.name.endswith(self.options.caption_suffix)
