"""What ``e4t prepare`` does and how the stream reads, each field explained where it is declared."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from data_prep.credentials import check_no_credentials
from data_prep.hashing import sha256_json
from e4t import ConfigError

PILLOW_MAX_PIXELS = 178_956_970
"""Pillow refuses to open anything larger, whatever our own limit says."""
WEBP_MAX_SIDE = 16_383
HASH_DISTANCE_LIMIT = 8
BUILTIN_SCORES = ("blur",)
PIL_FORMATS = {"png": "PNG", "webp": "WEBP", "jpg": "JPEG"}
"""Formats in which images can be stored, and what Pillow calls them."""
ProgressCallback = Callable[[int, int], None]
"""Called with the number of finished units of work and their total."""


@dataclass(frozen=True, kw_only=True)
class SplitFractions:
    """Shares of the identities that fall into each split; together 1."""

    train: float = 0.90
    """Seen in pre-training."""
    val: float = 0.04
    """Looked at while training."""
    test: float = 0.06
    """Looked at once, at the end."""

    def __post_init__(self) -> None:
        fractions = (self.train, self.val, self.test)
        if not (min(fractions) >= 0 and abs(sum(fractions) - 1) <= 1e-9):
            raise ConfigError(f"data.splits (train, val, test) is {fractions}; each must be at least 0 and the sum 1")


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """How a source is read, beyond where it is."""

    type: Literal["auto", "folder", "archive", "shards", "table", "datasets"] = "auto"
    """What ``data.source`` names. ``auto`` tells a folder of pictures, archives (.zip, .tar, .tar.gz, .tgz, or a folder
    of nothing else), webdataset shards (a brace pattern such as ``set-{000..041}.tar``, or a folder with a manifest of
    ours), a table (.csv, .parquet with a column of paths) and Hugging Face datasets (``hf://name``, a folder that
    ``save_to_disk`` made, .arrow, .parquet with a column of pictures) from each other."""
    pattern: str = "{identity}/{picture}"
    """How a path (relative to the source, without suffix) names the identity. A field matches anything but a slash, and
    as much as it can. Splits are by identity."""
    identities: str | None = None
    """File of lines ``picture identity`` (CelebA's identity_CelebA.txt), instead of ``pattern``."""
    attributes: str | None = None
    """File with columns for pictures by file name: CelebA's list_attr_celeba.txt, FFHQ's JSON, or a CSV whose first
    column is the name."""
    image_column: str = "image"
    """Of a table or dataset: the picture, or a path or URL of it (a path is relative to the table)."""
    identity_column: str | None = None
    """Of a table or dataset: who or what is shown. Without one every picture is its own identity."""
    caption_column: str | None = None
    """Of a table, dataset or attributes file."""
    split: str = "train"
    """Of a Hugging Face dataset."""
    streaming: bool = False
    """Read a Hugging Face dataset as it comes, without a copy on the disk."""
    caption_suffix: str = ".txt"
    """A picture's caption is the first line of the file beside it with this suffix, if there is one."""

    def __post_init__(self) -> None:
        fields = Counter(re.findall(r"\{(\w*)\}", self.pattern))
        if "identity" not in fields and not self.identities:
            raise ConfigError(
                f"data.source_options.pattern {self.pattern!r} names no {{identity}}; splits are by identity: say where, or give "
                "data.source_options.identities"
            )
        if fields and (max(fields.values()) > 1 or not all(name.isidentifier() for name in fields)):
            raise ConfigError(
                f"data.source_options.pattern {self.pattern!r} must give each field another name, of letters"
            )
        if not re.fullmatch(r"(\.[^./\\]+)+", self.caption_suffix):
            raise ConfigError(
                f"data.source_options.caption_suffix is {self.caption_suffix!r}; give a suffix such as .txt"
            )


@dataclass(frozen=True, kw_only=True)
class FilterConfig:
    """Which pictures are kept out; each is counted and listed with its reason."""

    min_side: int = 16
    """A picture whose shorter side has fewer pixels is kept out."""
    max_pixels: int = 100_000_000
    """A picture of more pixels is taken for a decompression bomb and kept out, unopened."""
    max_aspect: float | None = None
    """A picture whose longer side is more times its shorter one is kept out."""
    max_hash_distance: int | None = None
    """Of pictures whose perceptual hashes (64 bits) differ in at most so many bits, the first is kept. 4 finds copies
    that were resized or compressed again. None looks for exact copies of files only."""
    scores: tuple[str, ...] = ()
    """Numbers to record with every picture: ``blur`` (variance of the Laplacian), or ``package.module:function`` of
    an RGB picture."""
    filter_fn: str | None = None
    """``package.module:function`` of a dict with ``columns``, ``scores``, ``width``, ``height``, ``identity`` and
    ``caption`` that says whether the picture is taken."""

    def __post_init__(self) -> None:
        for name in ("min_side", "max_pixels"):
            if getattr(self, name) < 1:
                raise ConfigError(f"data.filters.{name} is {getattr(self, name)}; give at least 1")
        if self.max_pixels > PILLOW_MAX_PIXELS:
            raise ConfigError(f"data.filters.max_pixels is {self.max_pixels}; Pillow opens at most {PILLOW_MAX_PIXELS}")
        if self.max_aspect is not None and self.max_aspect < 1:
            raise ConfigError(f"data.filters.max_aspect is {self.max_aspect}; give at least 1, or nothing")
        if self.max_hash_distance is not None and not 0 <= self.max_hash_distance <= HASH_DISTANCE_LIMIT:
            raise ConfigError(
                f"data.filters.max_hash_distance is {self.max_hash_distance}; give 0 to {HASH_DISTANCE_LIMIT} bits, or nothing"
            )
        for name in (*self.scores, *([self.filter_fn] if self.filter_fn else [])):
            if name not in BUILTIN_SCORES and not re.fullmatch(r"[\w.]+:\w+", name):
                raise ConfigError(
                    f"data.filters: {name!r} is no package.module:function; give one, or {BUILTIN_SCORES}"
                )


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Pictures to shards."""

    source: str
    """Folder, archive, table, dataset or pattern, here or at any URL that fsspec opens."""
    output: str
    """Folder or URL that gets the manifest and the shards."""
    domain: str
    """The domain's word: face, cat, art."""
    source_options: SourceConfig = field(default_factory=SourceConfig)
    """How the source is read."""
    filters: FilterConfig = field(default_factory=FilterConfig)
    """What is kept out."""
    resolution: int = 512
    """Side of the square pictures, in pixels."""
    crop: Literal["center", "random", "box", "face"] = "center"
    """Which square is kept. ``center``: the largest, in the middle. ``random``: the largest, where the key decides, the
    same every time. ``box``: around the box in the columns ``left, top, right, bottom`` (pixels of the upright
    picture). ``face``: around the largest face that OpenCV finds (extra ``face``), with some room. Without box or face,
    the middle."""
    caption_template: str = "a photo of a {domain}"
    """Caption of a picture that has none of its own."""
    format: Literal["png", "webp", "jpg"] = "webp"
    """How pictures are stored."""
    quality: int = 95
    """Of webp and jpg, 1 to 100."""
    lossless: bool = False
    """Store webp without loss; larger than quality 95, smaller than png."""
    keep_original: bool = True
    """Store a file as it came when it already is what would be made of it: codec, size, colour space, no metadata."""
    shard_samples: int = 1000
    """Pictures planned into a shard; those that are kept out shrink it."""
    splits: SplitFractions = field(default_factory=SplitFractions)
    """Shares of the identities."""

    def __post_init__(self) -> None:
        check_no_credentials(asdict(self), "data.")
        for name in ("source", "output", "domain"):
            if not getattr(self, name):
                raise ConfigError(f"data.{name} is empty; give one")
        for name in ("resolution", "shard_samples"):
            if getattr(self, name) < 1:
                raise ConfigError(f"data.{name} is {getattr(self, name)}; give at least 1")
        self._check_format()
        try:
            self.default_caption()
        except (LookupError, ValueError, AttributeError) as error:
            raise ConfigError(
                f"data.caption_template {self.caption_template!r} does not format ({error!r}); only {{domain}} is known"
            ) from error

    def _check_format(self) -> None:
        if self.format not in PIL_FORMATS:
            raise ConfigError(f"data.format is {self.format!r}; give png, webp or jpg")
        if not 1 <= self.quality <= 100:
            raise ConfigError(f"data.quality is {self.quality}; give 1 to 100")
        if self.lossless and self.format != "webp":
            raise ConfigError(
                f"data.lossless is for webp, and data.format is {self.format}; png has no loss, jpg always"
            )
        if self.format == "webp" and self.resolution > WEBP_MAX_SIDE:
            raise ConfigError(
                f"data.resolution is {self.resolution}; webp holds up to {WEBP_MAX_SIDE}: give png or jpg"
            )

    def default_caption(self) -> str:
        """Caption of a picture without one of its own."""
        return self.caption_template.format(domain=self.domain)

    def content_settings(self) -> dict[str, Any]:
        """The settings that decide the shards' bytes: the same pictures elsewhere make the same set."""
        return {name: value for name, value in asdict(self).items() if name not in {"output", "source"}}

    @property
    def digest(self) -> str:
        """Sha256 of ``what_is_made``."""
        return sha256_json(self.content_settings())


@dataclass(frozen=True, kw_only=True)
class DataLoaderConfig:
    """How shards are read in training."""

    shuffle_window_shards: int = 16
    """Samples are shuffled within so many shards, which keeps reads near each other. Part of the order: do not change
    it in the middle of a run."""
    mixture: dict[str, float] = field(default_factory=dict)
    """Other sets, folder or URL, each with its weight; the recipe's own set weighs 1. Part of the order, too."""
    num_workers: int = 2
    """Processes of each rank that decode. 0 decodes in the training process, which suits tiny pictures."""
    prefetch: int = 4
    """Batches decoded ahead."""
    horizontal_flip: bool = False
    """Mirror half of the pictures. Leave it off where captions or identities tell left from right."""
    cache_dir: str = "~/.cache/e4t/shards"
    """Where shards of sets that are not on this machine's disk are kept. All processes of a machine may share it."""
    cache_max_bytes: int = 32 * 2**30
    """Most that is kept there; shards not read for longest go first. Two windows of shards hide all downloads."""
    retries: int = 5
    """How often a read that failed is tried again."""
    backoff_seconds: float = 1.0
    """Wait before the first retry; it doubles with each."""
    timeout_seconds: float = 60.0
    """A read from a store (8 MiB at most) that takes longer has failed."""
    on_error: Literal["raise", "skip"] = "raise"
    """What to do about samples that cannot be read: end the run, or put the next readable ones in their place."""

    def __post_init__(self) -> None:
        for name in ("shuffle_window_shards", "prefetch", "cache_max_bytes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"stream.{name} is {getattr(self, name)}; give at least 1")
        for name in ("num_workers", "retries", "backoff_seconds"):
            if getattr(self, name) < 0:
                raise ConfigError(f"stream.{name} is {getattr(self, name)}; give at least 0")
        if not self.timeout_seconds > 0:
            raise ConfigError(f"stream.timeout_seconds is {self.timeout_seconds}; give more than 0")
        if self.on_error not in ("raise", "skip"):
            raise ConfigError(f"stream.on_error is {self.on_error!r}; give raise or skip")
        for url, weight in self.mixture.items():
            if not 0 < weight < float("inf"):
                raise ConfigError(f"stream.mixture: {url} weighs {weight}; give more than 0, or leave it out")
