"""Read a folder tree of images, on the local disk or at any fsspec URL."""

from collections.abc import Iterator
from dataclasses import dataclass

from data_prep.config import PrepareConfig, SourceConfig
from data_prep.errors import DataError
from data_prep.records import Record, Reject
from data_prep.sources.filesystem import MAX_FILE_BYTES, Entry, FileTree, is_folder, open_tree
from data_prep.sources.labels import Labels
from data_prep.sources.names import MAX_CAPTION_BYTES, Keys, caption_path, escape, first_line, is_image_path, is_utf8


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
                location = (path, caption_path(path, self.options.caption_suffix)) if caption else (path,)
                version = f"{entry.version}+{caption.version}" if caption else entry.version
                yield labels.to_record(path, key=key, source=path, location=location, version=version)

    def read(self, record: Record) -> bytes:
        """Read the image file. Raises OSError."""
        return self.tree.read(str(record.location[0]))

    def caption(self, record: Record) -> str | None:
        """Return the first line of the caption file, or else the caption from the attributes. Raises OSError."""
        texts = [self.tree.read(str(name), MAX_CAPTION_BYTES) for name in record.location[1:]]
        return (first_line(texts[0]) if texts else None) or record.caption

    def _walk(self, folder: str, ancestors: tuple[object, ...]) -> Iterator[tuple[str, str, Entry, Entry | None]]:
        """Yield path, key, entry and caption entry per image; ``ancestors`` are the inode keys down to ``folder``."""
        suffix, keys = self.options.caption_suffix, Keys()
        entries = self.tree.entries(folder, lambda name: is_image_path(name) or name.endswith(suffix))
        files = {entry.name: entry for entry in entries if entry.kind == "file"}
        for entry in entries:
            path = f"{folder}/{entry.name}".lstrip("/")
            if entry.kind == "folder":
                inode_key = self.tree.inode_key(path)
                if inode_key not in ancestors:
                    yield from self._walk(path, (*ancestors, inode_key))
            elif is_image_path(entry.name):
                yield path, keys.assign(path), entry, files.get(caption_path(entry.name, suffix))
