"""Archives of pictures, here or at any URL that fsspec opens, read in place: nothing is ever unpacked."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from data_prep.config import PrepareConfig, SourceConfig
from data_prep.records import Record, Reject
from data_prep.sources.archive_files import ArchiveFile, find_archives
from data_prep.sources.archive_reader import ArchiveReader
from data_prep.sources.labels import Labels
from data_prep.sources.members import Member
from data_prep.sources.names import Keys, beside, hashed_key, is_picture, printable, split_suffix


@dataclass(frozen=True)
class ArchiveSource:
    """Every picture in one archive, in those of a folder, or in those that a pattern finds.

    Zip and plain tar members are read by their ranges. A compressed tar is read forwards, so each worker decompresses
    it about once. Archives within archives and what macOS adds (``__MACOSX/``, ``._0.png``) are passed over.
    """

    archives: tuple[ArchiveFile, ...]
    settings: SourceConfig
    reader: ArchiveReader = field(compare=False)

    @classmethod
    def of(cls, config: PrepareConfig) -> "ArchiveSource":
        """The configured source. Raises DataError if there is no archive."""
        tree, archives = find_archives(config.source)
        return cls(archives, config.source_options, ArchiveReader(tree))

    def __iter__(self) -> Iterator[Record | Reject]:
        """Pictures archive by archive, in each one's own order. An archive's names are in memory while it is listed.

        An archive that is damaged is a Reject, after what could be listed of it. Paths within the archive name the
        identity; with several archives, keys begin with the archive's name. Raises DataError for bad side tables.
        """
        labels = Labels.load(self.settings)
        for archive in self.archives:
            yield from self._list(archive, labels)

    def read(self, record: Record) -> bytes:
        """The picture's bytes. Raises OSError, also where they are not as the archive declares them."""
        return self.reader.picture(record)

    def caption(self, record: Record) -> str | None:
        """The first line of the member beside the picture, else what the attributes say. Raises OSError."""
        return self.reader.caption(record)

    def _list(self, archive: ArchiveFile, labels: Labels) -> Iterator[Record | Reject]:
        members = [member for member in self.reader.members(archive.name) if member is None or self._wanted(member)]
        captions = {member.name: member for member in members if member and not member.fault}
        keys, seen = Keys(), set[str]()
        for number, member in enumerate(members):
            if member is None:
                yield archive.broken()
                continue
            if not is_picture(member.name):
                continue
            path, fault = archive.prefix + member.name, member.fault
            if member.name in seen:
                key, fault = hashed_key(split_suffix(path)[0], f"copy {number}"), "duplicate name in archive"
            else:
                key = keys.of(path)
            seen.add(member.name)
            source = f"{archive.name}!{member.name}"
            if fault:
                yield Reject(key=key, source=printable(source), reason=fault)
                continue
            text = captions.get(beside(member.name, self.settings.caption_suffix))
            place: tuple[str | int, ...] = (archive.name, *member.place, *(text.place if text else ()))
            stamp = f"{member.stamp}+{text.stamp}" if text else member.stamp
            yield labels.record(member.name, key=key, source=source, place=place, stamp=stamp)

    def _wanted(self, member: Member) -> bool:
        return is_picture(member.name) or member.name.endswith(self.settings.caption_suffix)
