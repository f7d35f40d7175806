"""Read a folder of an HTTP server: files by name, and names from the links of its index page."""

import fnmatch
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import BinaryIO
from urllib.parse import quote, unquote, urljoin

from data_prep.config import ReadConfig
from data_prep.sources.files.failures import listing_errors, missing_is_change
from data_prep.sources.files.filesystem import MAX_FILE_BYTES, Entry, limit_size
from data_prep.sources.files.http_client import http_client
from data_prep.sources.files.http_headers import version_tags
from data_prep.sources.files.range_file import ReadAhead, open_ranges
from data_prep.sources.files.versions import make_version

MAX_PAGE_BYTES = 64 * 2**20
"""Limit of an index page in bytes."""
_UNQUOTED = "/%?=&+:@,;~!$'()*#[]"
"""Characters of names that are sent as they are."""


@dataclass(frozen=True)
class HttpTree:
    """A folder at an http(s) URL."""

    url: str
    config: ReadConfig

    def entries(self, folder: str, needs_stat: Callable[[str], bool]) -> list[Entry]:
        """List the links of the folder's index page to files and folders in it; see FileTree."""
        page_url = self._url(f"{folder}/" if folder else "")
        with listing_errors(page_url):
            page = http_client(self.config).read_range(page_url, 0, MAX_PAGE_BYTES)
        names = _linked_names(page.decode(errors="replace"), page_url)
        entries = [Entry(name.rstrip("/"), "folder" if name.endswith("/") else "file", 0, "") for name in names]
        return sorted(entries, key=lambda entry: entry.name)

    def names(self) -> Iterator[str]:
        """Yield the names in the root folder; see FileTree."""
        return (entry.name for entry in self.entries("", lambda _: True))

    def entry(self, name: str) -> Entry:
        """Look up one file, or the root folder if the name is empty; see FileTree."""
        size, headers = http_client(self.config).head(self._url(name))
        return Entry(name, "file" if name else "folder", size or 0, make_version(size, version_tags(headers)))

    def inode_key(self, folder: str) -> object:
        """Return the path: servers have no links; see FileTree."""
        return folder

    def glob(self, pattern: str) -> list[str]:
        """List the files that match a pattern by the index pages of their folders; see FileTree."""
        *folders, last = pattern.split("/")
        found = [""]
        for part in folders:
            found = [name for folder in found for name in self._matches(folder, part, "folder")]
        return sorted(name for folder in found for name in self._matches(folder, last, "file"))

    def read(self, name: str, size: int = MAX_FILE_BYTES + 1, start: int = 0, *, version: str = "") -> bytes:
        """Read part of a file; see FileTree."""
        if size <= 0:
            return b""
        url = self._url(name)
        with missing_is_change(url, version):
            return http_client(self.config).read_range(url, start, size, version)

    def read_image(self, name: str, version: str = "") -> bytes:
        """Read an image file; see FileTree."""
        url = self._url(name)
        with missing_is_change(url, version):
            return http_client(self.config).read_image(url, version)

    def open(self, name: str, version: str = "") -> BinaryIO:
        """Open a file; see FileTree."""
        url = self._url(name)
        with missing_is_change(url, version):
            size, headers = http_client(self.config).head(url)
        if size is None:  # the server makes the file for each request, so it is read at once
            return io.BytesIO(limit_size(self.read(name, version=version)))
        version = version or make_version(size, version_tags(headers))
        return open_ranges(ReadAhead(lambda start, size: self.read(name, size, start, version=version), size), size)

    def _matches(self, folder: str, pattern: str, kind: str) -> list[str]:
        """Return the paths of the files or folders in a folder that match one part of a pattern."""
        if "*" not in pattern:
            return [f"{folder}/{pattern}".lstrip("/")]
        entries = self.entries(folder, lambda _: True)
        names = [entry.name for entry in entries if entry.kind == kind and fnmatch.fnmatchcase(entry.name, pattern)]
        return [f"{folder}/{name}".lstrip("/") for name in names]

    def _url(self, name: str) -> str:
        return f"{self.url}/{quote(name, safe=_UNQUOTED)}" if self.url else name


class _Links(HTMLParser):
    """Collect the targets of the links of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.targets += [value for name, value in attrs if name == "href" and value]


def _linked_names(page: str, url: str) -> list[str]:
    """Return the names of the files and folders directly in the folder of an index page; folders end with a slash."""
    links = _Links()
    links.feed(page)
    names = set[str]()
    for target in links.targets:
        path = urljoin(url, target)
        name = path.removeprefix(url)
        if path.startswith(url) and re.fullmatch(r"[^/?#]+/?", name):
            # The name as it is written, if the request for it is the same.
            plain = unquote(name)
            names.add(plain if quote(plain, safe=_UNQUOTED) == name else name)
    return sorted(names)
