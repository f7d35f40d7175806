"""Read a folder tree of images, on the local disk or at any fsspec URL."""

from collections.abc import Iterator
from dataclasses import dataclass

from data_prep.config import PrepareConfig, SourceConfig
from data_prep.errors import DataError
from data_prep.records import Record, Reject
from data_prep.sources.captions import MAX_CAPTION_BYTES, CaptionFiles, caption_from_file, is_caption_path
from data_prep.sources.filesystem import MAX_FILE_BYTES, Entry, FileTree, is_folder, open_tree
from data_prep.sources.labels import CaptionFile, Labels
from data_prep.sources.names import Keys, escape, is_image_path, is_utf8


@dataclass(frozen=True)
class FolderSource:
    """Every image under a folder. Links are followed; loops of links are detected and skipped."""

    tree: FileTree
    options: SourceConfig

    @classmethod
    def from_config(cls, config: PrepareConfig) -> "FolderSource":
        """Build the source from the configuration."""
        return cls(open_tree(config.source), config.source_options)

    def __iter__(self) -> Iterator[Record | Reject]:
        """List the images sorted by path; one folder per level of the tree is held in memory.

        Raises DataError if the folder is missing or a part of it cannot be listed.
        """
        if not is_folder(self.tree):
            raise DataError(f"source {self.tree.url}: no such folder; give a folder of images as data.source")
        labels = Labels.load(self.options)
        for path, key, entry, caption in self._walk("", (self.tree.inode_key(""),)):
            if not is_utf8(path):
                yield Reject(key=key, source=escape(path), reason="name is not UTF-8")
            elif entry.kind != "file":
                yield Reject(key=key, source=path, reason="not a file")
            elif entry.size > MAX_FILE_BYTES:
                yield Reject(key=key, source=path, reason="file too large")
            else:
                yield labels.to_record(
                    path, key=key, source=path, location=(path,), version=entry.version, caption_file=caption
                )

    def read(self, record: Record) -> bytes:
        """Read the image file. Raises OSError."""
        return self.tree.read(str(record.location[0]))

    def caption(self, record: Record) -> str | None:
        """Return the caption from the caption file, or else that of the record. Raises OSError and SampleRejected."""
        for path in record.location[1:]:
            data = self.tree.read(str(path), MAX_CAPTION_BYTES + 1)
            if caption := caption_from_file(data, self.options, record.key):
                return caption
        return record.caption

    def _walk(self, folder: str, ancestors: tuple[object, ...]) -> Iterator[tuple[str, str, Entry, CaptionFile | None]]:
        """Yield path, key, entry and caption file per image; ``ancestors`` are the inode keys down to ``folder``."""
        keys = Keys()
        entries = self.tree.entries(folder, lambda name: is_image_path(name) or is_caption_path(name, self.options))
        files = {entry.name: entry for entry in entries if entry.kind == "file"}
        captions = CaptionFiles(files, filter(is_image_path, files), self.options)
        for entry in entries:
            path = f"{folder}/{entry.name}".lstrip("/")
            if entry.kind == "folder":
                inode_key = self.tree.inode_key(path)
                if inode_key not in ancestors:
                    yield from self._walk(path, (*ancestors, inode_key))
            elif is_image_path(entry.name):
                name = captions.find(entry.name)
                caption = CaptionFile((f"{folder}/{name}".lstrip("/"),), files[name].version) if name else None
                yield path, keys.assign(path), entry, caption
