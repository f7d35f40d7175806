"""Read a folder tree of images, on the local disk or at any fsspec URL."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from data_prep.config import PrepareConfig, SourceConfig
from data_prep.errors import DataError, SampleRejected
from data_prep.images.formats import SNIFFED_BYTES, looks_like_image
from data_prep.records import Ignored, Listed, Record, Reject
from data_prep.sources.files.filesystem import (
    MAX_FILE_BYTES,
    Entry,
    FileTree,
    expand_home,
    is_folder,
    is_local,
    open_tree,
)
from data_prep.sources.labels.captions import MAX_CAPTION_BYTES, CaptionFiles, caption_from_file, is_caption_path
from data_prep.sources.labels.labels import CaptionFile, Labels
from data_prep.sources.labels.metadata_files import Metadata, load_metadata, metadata_above
from data_prep.sources.names import Keys, escape, is_utf8
from data_prep.sources.selection import (
    SIDE_TABLE,
    Selection,
    is_image_path,
    is_metadata_path,
    may_be_image,
    other_reason,
)


@dataclass(frozen=True)
class FolderSource:
    """Every image under a folder. Links are followed; loops of links are detected and ignored."""

    tree: FileTree
    options: SourceConfig
    selection: Selection

    @classmethod
    def from_config(cls, config: PrepareConfig) -> "FolderSource":
        """Build the source from the configuration."""
        return cls(open_tree(config.source, config.read), config.source_options, Selection(config.read))

    def __iter__(self) -> Iterator[Listed]:
        """List the entries sorted by path; one folder per level of the tree is held in memory.

        An ignored folder is one entry, whose source ends with a slash; it is not listed. Raises DataError if the folder
        is missing or a part of it cannot be listed.
        """
        if not is_folder(self.tree):
            raise DataError(f"source {self.tree.url}: no such folder; give a folder of images as data.source")
        yield from self._list_folder("", Labels.load(self.options, self.selection.read), {}, (self.tree.inode_key(""),))

    def read(self, record: Record) -> bytes:
        """Read the image file; see Source."""
        return self.tree.read_image(str(record.location[0]), record.version.split("+")[0])

    def caption(self, record: Record) -> str | None:
        """Return the caption from the caption file, or else that of the record; see Source."""
        for path, version in zip(record.location[1:], record.version.split("+")[1:], strict=True):
            data = self.tree.read(str(path), MAX_CAPTION_BYTES + 1, version=version)
            if caption := caption_from_file(data, self.options, record.key):
                return caption
        return record.caption

    def _list_folder(
        self, folder: str, labels: Labels, metadata: Mapping[str, Metadata], ancestors: tuple[object, ...]
    ) -> Iterator[Listed]:
        """List a folder and its subfolders.

        ``metadata`` are the tables of the folders above it, ``ancestors`` the inode keys down to ``folder``.
        """
        keys = Keys()
        entries = {f"{folder}/{entry.name}".lstrip("/"): entry for entry in self.tree.entries(folder, self._needs_stat)}
        reasons = {path: self._reason_to_ignore(path, entry) for path, entry in entries.items()}
        images = [path for path, entry in entries.items() if entry.kind != "folder" and reasons[path] is None]
        tables = [path for path, reason in reasons.items() if reason == SIDE_TABLE and is_metadata_path(path)]
        metadata = {**metadata, **load_metadata(tables, self.tree.read, self.options, f"{self.tree.url}/")}
        captions = self._find_captions(images, entries, reasons)
        belonging = {caption for found in captions.values() for caption in found}
        for path, entry in entries.items():
            reason = reasons[path]
            if path in belonging:
                continue
            if reason is not None:
                yield Ignored(source=escape(f"{path}/" if entry.kind == "folder" else path), reason=reason)
            elif entry.kind == "folder":
                inode_key = self.tree.inode_key(path)
                if inode_key in ancestors:
                    yield Ignored(source=escape(f"{path}/"), reason="loop of links")
                else:
                    yield from self._list_folder(path, labels, metadata, (*ancestors, inode_key))
            elif left_out := self.selection.reason_to_leave_out(path):
                yield Ignored(source=escape(path), reason=left_out)
            else:
                caption = next(iter(captions[path]), None)
                caption_file = _caption_file(caption, entries[caption]) if caption else None
                yield _to_record(path, keys.assign(path), entry, caption_file, labels, metadata)

    def _needs_stat(self, name: str) -> bool:
        return is_image_path(name) or may_be_image(name) or is_caption_path(name, self.options)

    def _reason_to_ignore(self, path: str, entry: Entry) -> str | None:
        """Return why an entry is ignored, or None for a folder to be listed and for an image."""
        reason = self.selection.reason_to_ignore(path)
        if reason or entry.kind == "folder" or is_image_path(path):
            return reason
        if path in self._side_tables:
            return SIDE_TABLE
        if is_caption_path(path, self.options):
            return "caption without image"
        return None if may_be_image(path) and self._is_image(path, entry) else other_reason(path)

    def _is_image(self, path: str, entry: Entry) -> bool:
        """Tell by the content whether a file is an image; one that cannot be opened counts, to be rejected."""
        if entry.kind != "file":
            return True
        try:
            return entry.size > 0 and looks_like_image(self.tree.read(path, SNIFFED_BYTES))
        except SampleRejected:
            return True

    def _find_captions(
        self, images: list[str], entries: dict[str, Entry], reasons: dict[str, str | None]
    ) -> dict[str, list[str]]:
        """Return the paths of the caption files of each image, the one to be read first."""
        candidates = [
            path
            for path, entry in entries.items()
            if entry.kind != "folder" and reasons[path] not in (None, "hidden", "excluded by pattern")
        ]
        files = CaptionFiles(candidates, images, self.options)
        return {path: files.find_all(path) for path in images}

    @cached_property
    def _side_tables(self) -> set[str]:
        """Paths of the tables of identities and attributes, relative to the source."""
        urls = [url for url in (self.options.identities, self.options.attributes) if url]
        if is_local(self.tree.url):
            paths = [expand_home(url.removeprefix("file://")) for url in urls if is_local(url)]
            return {os.path.relpath(path, self.tree.url) for path in paths}
        return {url.removeprefix(f"{self.tree.url}/") for url in urls}


def _caption_file(path: str, entry: Entry) -> CaptionFile:
    return CaptionFile((path,), entry.version, "" if entry.kind == "file" else "not a file")


def _to_record(
    path: str,
    key: str,
    entry: Entry,
    caption_file: CaptionFile | None,
    labels: Labels,
    metadata: Mapping[str, Metadata],
) -> Record | Reject:
    if not is_utf8(path):
        return Reject(key=key, source=escape(path), reason="name is not UTF-8")
    if entry.kind != "file":
        return Reject(key=key, source=path, reason="not a file")
    if entry.size > MAX_FILE_BYTES:
        return Reject(key=key, source=path, reason="file too large")
    return labels.to_record(
        path,
        key=key,
        source=path,
        location=(path,),
        version=entry.version,
        caption_file=caption_file,
        metadata=metadata_above(path, metadata),
    )
