"""Configuration of what is read from a source, and how (recipe sections ``data.source_options``, ``data.read``)."""

import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

from e4t_errors import ConfigError

DEFAULT_CAPTION_SUFFIX = ".txt"
"""Suffix of caption files that need not exist."""


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """How to read the source: its type, and where identities and captions come from."""

    type: Literal["auto", "folder", "archive", "shards", "table", "datasets"] = "auto"
    """Type of ``data.source``. ``auto`` detects a folder of images; archives (.zip, .tar, .tar.gz, ..., a pattern or a
    folder of archives); webdataset shards (a brace pattern such as ``set-{000..041}.tar``, a folder with a
    manifest.json of e4t, tars with metadata beside their images and without folders); a table (.csv, .tsv, .jsonl, .txt
    with a path per line, or .parquet with a column of paths); and Hugging Face datasets (``hf://name``, a folder
    written by ``save_to_disk``, .arrow, or .parquet with a column of images). Set it if detection is wrong."""
    pattern: str = "{identity}/{image}"
    """Pattern of the paths (relative to the source, without suffix) that tells the identity from the path. A field
    matches as many characters as possible, except slashes. All images of an identity go to the same split."""
    identities: str | None = None
    """File with lines ``image identity``, such as CelebA's identity_CelebA.txt, to be used instead of ``pattern``."""
    attributes: str | None = None
    """File with further columns by image path or name: CelebA's list_attr_celeba.txt, FFHQ's JSON, or a table (.csv,
    .tsv, .json, .jsonl, .parquet) whose first column is the image."""
    image_column: str = "image"
    """Column of a table or dataset with the image itself, its path (relative to the table), or its URL."""
    identity_column: str | None = None
    """Column of a table, dataset or metadata file with the identity. A table without one has one identity per image."""
    caption_column: str | None = None
    """Column of a table, dataset, attributes or metadata file with the caption, or key in a JSON caption file. A dotted
    name such as ``meta.caption`` is a field of a struct. Where it is empty, a caption file is used."""
    caption_choice: Literal["first", "random", "join"] = "first"
    """Which caption to take from a column with lists or a caption file of several lines: the ``first``, one at
    ``random`` that depends only on the sample key, or all of them (``join``): lists with commas, lines with spaces."""
    split: str = "train"
    """Split of a Hugging Face dataset to read."""
    streaming: bool = False
    """Stream a Hugging Face dataset instead of downloading a copy to the disk first."""
    caption_suffix: str = DEFAULT_CAPTION_SUFFIX
    """Suffix of caption files. The caption of ``a.jpg`` is in ``a.jpg.txt`` or else ``a.txt``, one per line; ``.txt``
    includes ``.caption`` files. A ``.json`` file holds it under ``caption_column`` (``caption`` by default)."""
    fallback_encoding: str | None = None
    """Encoding of captions and tables that are not UTF-8 and have no byte order mark, such as ``cp1252``. Without one,
    images whose caption or row is not UTF-8 are rejected."""

    def __post_init__(self) -> None:
        fields = Counter(re.findall(r"\{(\w*)\}", self.pattern))
        if "identity" not in fields and not self.identities:
            raise ConfigError(
                f"data.source_options.pattern {self.pattern!r} has no {{identity}} field, which the splits "
                "need; add it, or set data.source_options.identities"
            )
        if fields and (max(fields.values()) > 1 or not all(name.isidentifier() for name in fields)):
            raise ConfigError(
                f"data.source_options.pattern {self.pattern!r} must give every field a different name, made of letters"
            )
        if not re.fullmatch(r"(\.[^./\\]+)+", self.caption_suffix):
            raise ConfigError(
                f"data.source_options.caption_suffix is {self.caption_suffix!r}; give a suffix such as .txt"
            )
        if self.caption_choice not in ("first", "random", "join"):
            raise ConfigError(
                f"data.source_options.caption_choice is {self.caption_choice!r}; give first, random or join"
            )
        if self.fallback_encoding is not None and not _is_encoding(self.fallback_encoding):
            raise ConfigError(
                f"data.source_options.fallback_encoding is {self.fallback_encoding!r}, which is no text encoding; give "
                "one such as cp1252, or null"
            )

    @property
    def expects_captions(self) -> bool:
        """Whether the settings say where captions are, so that images without one are counted."""
        return self.caption_column is not None or self.caption_suffix != DEFAULT_CAPTION_SUFFIX

    @property
    def has_json_captions(self) -> bool:
        """Whether caption files are JSON."""
        return self.caption_suffix.lower().endswith(".json")


def _is_encoding(name: str) -> bool:
    try:
        "".encode(name)
    except (LookupError, ValueError):
        return False
    return True


@dataclass(frozen=True, kw_only=True)
class ReadConfig:
    """Which entries of the source are read, and how reads are repeated that fail."""

    include: tuple[str, ...] = ()
    """Glob patterns of paths relative to the source (``*`` also matches slashes). If there are any, only entries that
    match one of them are read."""
    exclude: tuple[str, ...] = ()
    """Glob patterns of paths relative to the source that are not read, even if ``include`` matches."""
    include_hidden: bool = False
    """Read hidden files and folders, too: names that start with a dot, and folders of systems such as ``@eaDir``."""
    ignore_robots_tag: bool = False
    """Read images whose server answers with the header ``X-Robots-Tag`` and one of noai, noimageai, noindex or
    noimageindex. By default they are rejected."""
    retries: int = 4
    """Number of times a read is repeated after a failure that may be temporary: no connection, no answer in time, an
    incomplete answer, HTTP status 408, 425, 429 or 5xx, or an error of the disk."""
    backoff_seconds: float = 1.0
    """Pause in seconds before the first repetition. It doubles each time and varies at random by a quarter; a longer
    ``Retry-After`` of the server is respected."""
    timeout_seconds: float = 120.0
    """Time in seconds that one attempt to read one image or one block of an archive may take."""
    idle_timeout_seconds: float = 20.0
    """Time in seconds without a byte from the server after which an attempt has failed."""
    requests_per_host: int = 8
    """Largest number of requests to one host at a time, of each worker process."""
    user_agent: str = "e4t"
    """Name by which HTTP servers know the client (header ``User-Agent``)."""
    max_failed_fraction: float = 0.0
    """Largest fraction of the images whose reads may have failed for reasons that may be temporary when the dataset is
    finished. If there are more, the job fails and a rerun tries exactly those again."""

    def __post_init__(self) -> None:
        for name in ("include", "exclude"):
            if not all(isinstance(pattern, str) and pattern for pattern in getattr(self, name)):
                raise ConfigError(f"data.read.{name} is {getattr(self, name)}; give patterns such as '*.jpg'")
        for name in ("retries", "backoff_seconds"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"data.read.{name} is {getattr(self, name)}; give at least 0")
        for name in ("timeout_seconds", "idle_timeout_seconds"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"data.read.{name} is {getattr(self, name)}; give more than 0")
        if self.requests_per_host < 1:
            raise ConfigError(f"data.read.requests_per_host is {self.requests_per_host}; give at least 1")
        if not self.user_agent.strip() or not self.user_agent.isprintable():
            raise ConfigError(f"data.read.user_agent is {self.user_agent!r}; give a name on one line")
        if not 0 <= self.max_failed_fraction <= 1:
            raise ConfigError(f"data.read.max_failed_fraction is {self.max_failed_fraction}; give 0 to 1")

    def content_settings(self) -> dict[str, Any]:
        """Return the settings that determine which images are read."""
        names = ("include", "exclude", "include_hidden", "ignore_robots_tag")
        return {name: getattr(self, name) for name in names}
