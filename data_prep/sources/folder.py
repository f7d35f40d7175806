"""A folder tree of pictures, here or at any URL that fsspec opens."""

from collections.abc import Iterator
from dataclasses import dataclass

from data_prep.config import PrepareConfig, SourceConfig
from data_prep.errors import DataError
from data_prep.records import Record, Reject
from data_prep.sources.filesystem import MAX_FILE_BYTES, Entry, Tree, is_folder, open_tree
from data_prep.sources.labels import Labels
from data_prep.sources.names import CAPTION_BYTES, Keys, beside, first_line, is_picture, is_text, printable


@dataclass(frozen=True)
class FolderSource:
    """Every picture under a folder. Links are followed, loops are not."""

    tree: Tree
    settings: SourceConfig

    @classmethod
    def of(cls, config: PrepareConfig) -> "FolderSource":
        """The configured source."""
        return cls(open_tree(config.source), config.source_options)

    def __iter__(self) -> Iterator[Record | Reject]:
        """Pictures in the order of their paths, with one folder in memory on each level.

        Raises DataError if the folder is missing or some part of it cannot be listed.
        """
        if not is_folder(self.tree):
            raise DataError(f"source {self.tree.url}: no such folder; give a folder of pictures as data.source")
        labels = Labels.load(self.settings)
        for path, key, entry, caption in self._walk("", (self.tree.real(""),)):
            if not is_text(path):
                yield Reject(key=key, source=printable(path), reason="name is not UTF-8")
            elif entry.kind != "file":
                yield Reject(key=key, source=path, reason="not a file")
            elif entry.size > MAX_FILE_BYTES:
                yield Reject(key=key, source=path, reason="file too large")
            else:
                place = (path, beside(path, self.settings.caption_suffix)) if caption else (path,)
                stamp = f"{entry.stamp}+{caption.stamp}" if caption else entry.stamp
                yield labels.record(path, key=key, source=path, place=place, stamp=stamp)

    def read(self, record: Record) -> bytes:
        """The file. Raises OSError."""
        return self.tree.read(str(record.location[0]))

    def caption(self, record: Record) -> str | None:
        """The first line of the file beside the picture, else what the attributes say. Raises OSError."""
        texts = [self.tree.read(str(name), CAPTION_BYTES) for name in record.location[1:]]
        return (first_line(texts[0]) if texts else None) or record.caption

    def _walk(self, folder: str, above: tuple[object, ...]) -> Iterator[tuple[str, str, Entry, Entry | None]]:
        """Each picture with its path, key, entry and caption's entry; ``above`` tells the folders down to here."""
        suffix, keys = self.settings.caption_suffix, Keys()
        entries = self.tree.entries(folder, lambda name: is_picture(name) or name.endswith(suffix))
        files = {entry.name: entry for entry in entries if entry.kind == "file"}
        for entry in entries:
            path = f"{folder}/{entry.name}".lstrip("/")
            if entry.kind == "folder":
                real = self.tree.real(path)
                if real not in above:
                    yield from self._walk(path, (*above, real))
            elif is_picture(entry.name):
                yield path, keys.of(path), entry, files.get(beside(entry.name, suffix))
