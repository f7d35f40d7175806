"""Configuration of ``e4t prepare`` and of the data loader (recipe sections ``data`` and ``stream``)."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from data_prep.config_dict import sha256_json
from data_prep.credentials import check_no_credentials
from e4t_errors import ConfigError

PILLOW_MAX_PIXELS = 178_956_970
"""Pillow refuses to open larger images, whatever ``data.filters.max_pixels`` allows."""
WEBP_MAX_SIDE = 16_383
"""Largest width and height of a WebP image, in pixels."""
HASH_DISTANCE_LIMIT = 8
"""Beyond this Hamming distance the search is slow and most matches are chance; see ``find_duplicates``."""
BUILTIN_SCORES = ("blur",)
"""Names in ``data.filters.scores`` that need no function of the user."""
PIL_FORMATS = {"png": "PNG", "webp": "WEBP", "jpg": "JPEG"}
"""Formats in which images can be stored, and what Pillow calls them."""
MANIFEST_NAME = "manifest.json"
"""File in a dataset's folder that lists its shards; it is written last and marks a finished dataset."""
ProgressCallback = Callable[[int, int], None]
"""Called with the number of finished units of work and their total."""


@dataclass(frozen=True, kw_only=True)
class SplitFractions:
    """Fractions of the identities in each split; they sum to 1."""

    train: float = 0.90
    """Fraction of identities that pre-training uses."""
    val: float = 0.04
    """Fraction of identities on which training is validated."""
    test: float = 0.06
    """Fraction of identities for the final evaluation."""

    def __post_init__(self) -> None:
        fractions = (self.train, self.val, self.test)
        if not (min(fractions) >= 0 and abs(sum(fractions) - 1) <= 1e-9):
            raise ConfigError(f"data.splits (train, val, test) is {fractions}; each must be at least 0 and their sum 1")


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """How to read the source: its type, and where identities and captions come from."""

    type: Literal["auto", "folder", "archive", "shards", "table", "datasets"] = "auto"
    """Type of ``data.source``. ``auto`` detects a folder of images; archives (.zip, .tar, .tar.gz, .tgz, or a folder of
    archives only); webdataset shards (a brace pattern such as ``set-{000..041}.tar``, or a folder with a manifest.json
    of e4t); a table (.csv, or .parquet with a column of paths); and Hugging Face datasets (``hf://name``, a folder
    written by ``save_to_disk``, .arrow, or .parquet with a column of images). Set it if detection is wrong."""
    pattern: str = "{identity}/{image}"
    """Pattern of the paths (relative to the source, without suffix) that tells the identity from the path. A field
    matches as many characters as possible, except slashes. All images of an identity go to the same split."""
    identities: str | None = None
    """File with lines ``image identity``, such as CelebA's identity_CelebA.txt, to be used instead of ``pattern``."""
    attributes: str | None = None
    """File with further columns by image name: CelebA's list_attr_celeba.txt, FFHQ's JSON, or a CSV whose first column
    is the image name."""
    image_column: str = "image"
    """Column of a table or dataset with the image itself, its path (relative to the table), or its URL."""
    identity_column: str | None = None
    """Column of a table or dataset with the identity. Without one, every image is an identity of its own."""
    caption_column: str | None = None
    """Column of a table, dataset or attributes file with the caption."""
    split: str = "train"
    """Split of a Hugging Face dataset to read."""
    streaming: bool = False
    """Stream a Hugging Face dataset instead of downloading a copy to the disk first."""
    caption_suffix: str = ".txt"
    """Suffix of caption files. The caption of an image is the first line of the file of the same name with this suffix,
    if it exists."""

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


@dataclass(frozen=True, kw_only=True)
class FilterConfig:
    """Which images are rejected. Each rejected image is counted and listed with its reason in rejects.jsonl."""

    min_side: int = 16
    """Reject images whose shorter side has fewer pixels than this."""
    max_pixels: int = 100_000_000
    """Reject images with more pixels than this without decoding them, as they may be decompression bombs."""
    max_aspect: float | None = None
    """Reject images whose longer side exceeds the shorter side by more than this factor. None accepts all."""
    max_hash_distance: int | None = None
    """Largest Hamming distance (0 to 8 of 64 bits) between the perceptual hashes of two images that are considered near
    duplicates; the first one is kept. 4 finds copies that were resized or recompressed. None finds only identical
    files."""
    scores: tuple[str, ...] = ()
    """Scores to compute and store for every image: ``blur`` (variance of the Laplacian), or a function
    ``package.module:function`` that takes an RGB PIL image and returns a number."""
    filter_fn: str | None = None
    """Function ``package.module:function`` that decides whether to keep an image. It takes a dict with ``columns``,
    ``scores``, ``width``, ``height``, ``identity`` and ``caption`` and returns a truth value."""

    def __post_init__(self) -> None:
        for name in ("min_side", "max_pixels"):
            if getattr(self, name) < 1:
                raise ConfigError(f"data.filters.{name} is {getattr(self, name)}; give at least 1")
        if self.max_pixels > PILLOW_MAX_PIXELS:
            raise ConfigError(f"data.filters.max_pixels is {self.max_pixels}; Pillow opens at most {PILLOW_MAX_PIXELS}")
        if self.max_aspect is not None and self.max_aspect < 1:
            raise ConfigError(f"data.filters.max_aspect is {self.max_aspect}; give at least 1, or null")
        if self.max_hash_distance is not None and not 0 <= self.max_hash_distance <= HASH_DISTANCE_LIMIT:
            raise ConfigError(
                f"data.filters.max_hash_distance is {self.max_hash_distance}; give 0 to "
                f"{HASH_DISTANCE_LIMIT} bits, or null"
            )
        for name in (*self.scores, *([self.filter_fn] if self.filter_fn else [])):
            if name not in BUILTIN_SCORES and not re.fullmatch(r"[\w.]+:\w+", name):
                raise ConfigError(
                    f"data.filters: {name!r} is not of the form package.module:function; give one, or {BUILTIN_SCORES}"
                )


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """How to convert images into shards."""

    source: str
    """Folder, archive, table, dataset or shard pattern to read: a local path or any URL that fsspec can open."""
    output: str
    """Folder or URL to which the manifest and the shards are written."""
    domain: str
    """Word for the domain, such as face, cat or art. Captions that are generated contain it."""
    source_options: SourceConfig = field(default_factory=SourceConfig)
    """How to read the source."""
    filters: FilterConfig = field(default_factory=FilterConfig)
    """Which images to reject."""
    resolution: int = 512
    """Width and height of the stored images, in pixels. Use the resolution of the base model."""
    crop: Literal["center", "random", "box", "face"] = "center"
    """Which square of the image to keep. ``center``: the largest centered square. ``random``: a largest square at a
    position that depends only on the sample key. ``box``: a square around the box in the columns ``left``, ``top``,
    ``right`` and ``bottom`` (pixels of the upright image). ``face``: a square with a margin around the largest face
    that OpenCV detects (needs the extra ``face``). Images without a box or face get the centered square."""
    caption_template: str = "a photo of a {domain}"
    """Caption of images that have none of their own; ``{domain}`` is replaced by ``data.domain``."""
    format: Literal["png", "webp", "jpg"] = "webp"
    """File format of the stored images."""
    quality: int = 95
    """Compression quality of webp and jpg, 1 to 100."""
    lossless: bool = False
    """Store webp losslessly. Files are larger than at quality 95 and smaller than png."""
    keep_original: bool = True
    """Store a file unchanged if it already has the configured format, size and color space and no metadata."""
    shard_samples: int = 1000
    """Number of images planned for each shard. Rejected images make a shard smaller."""
    splits: SplitFractions = field(default_factory=SplitFractions)
    """Fractions of the identities in each split."""

    def __post_init__(self) -> None:
        check_no_credentials(asdict(self), "data.")
        for name in ("source", "output", "domain"):
            if not getattr(self, name):
                raise ConfigError(f"data.{name} is empty; set it")
        for name in ("resolution", "shard_samples"):
            if getattr(self, name) < 1:
                raise ConfigError(f"data.{name} is {getattr(self, name)}; give at least 1")
        self._check_format()
        if "{concept}" in self.caption_template:
            raise ConfigError(
                f"data.caption_template {self.caption_template!r} uses {{concept}}, which is now called {{domain}}"
            )
        try:
            self.default_caption()
        except (LookupError, ValueError, AttributeError) as error:
            raise ConfigError(
                f"data.caption_template {self.caption_template!r} cannot be formatted ({error!r}); the only field is "
                "{domain}"
            ) from error

    def _check_format(self) -> None:
        if self.format not in PIL_FORMATS:
            raise ConfigError(f"data.format is {self.format!r}; give png, webp or jpg")
        if not 1 <= self.quality <= 100:
            raise ConfigError(f"data.quality is {self.quality}; give 1 to 100")
        if self.lossless and self.format != "webp":
            raise ConfigError(
                f"data.lossless applies to webp, and data.format is {self.format}; png is always lossless, jpg never"
            )
        if self.format == "webp" and self.resolution > WEBP_MAX_SIDE:
            raise ConfigError(
                f"data.resolution is {self.resolution}; webp supports at most {WEBP_MAX_SIDE}: set "
                "data.format to png or jpg"
            )

    def default_caption(self) -> str:
        """Return the caption of images that have none of their own."""
        return self.caption_template.format(domain=self.domain)

    def content_settings(self) -> dict[str, Any]:
        """Return the settings that determine the content of the shards: all but the locations of source and output."""
        return {name: value for name, value in asdict(self).items() if name not in {"output", "source"}}

    @property
    def digest(self) -> str:
        """SHA-256 of ``content_settings``."""
        return sha256_json(self.content_settings())


@dataclass(frozen=True, kw_only=True)
class DataLoaderConfig:
    """How shards are read in training."""

    shuffle_window_shards: int = 16
    """Number of consecutive shards within which samples are shuffled. A larger window mixes better and needs more cache
    and memory. The order of samples depends on it: do not change it in the middle of a run."""
    mixture: dict[str, float] = field(default_factory=dict)
    """Further datasets to mix in: folder or URL, and weight relative to the recipe's own dataset, whose weight is 1.
    The order of samples depends on it: do not change it in the middle of a run."""
    num_workers: int = 2
    """Number of decoding processes of each rank. 0 decodes in the training process, which suits tiny images."""
    prefetch: int = 4
    """Number of batches to decode ahead of training."""
    horizontal_flip: bool = False
    """Mirror half of the images. Leave it off if captions or identities distinguish left from right."""
    cache_dir: str = "~/.cache/e4t/shards"
    """Folder in which shards of remote datasets are cached. All processes of a machine may share it."""
    cache_max_bytes: int = 32 * 2**30
    """Maximum size of the cache in bytes; the least recently used shards are removed first. Room for two windows of
    shards hides all downloads."""
    retries: int = 5
    """Number of times a failed read is retried."""
    backoff_seconds: float = 1.0
    """Pause in seconds before the first retry; it doubles with every retry."""
    timeout_seconds: float = 60.0
    """Time in seconds after which a read from a remote store (of at most 8 MiB) counts as failed."""
    on_error: Literal["raise", "skip"] = "raise"
    """What to do with samples that cannot be read: ``raise`` ends the run, ``skip`` uses the next readable sample."""

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
                raise ConfigError(f"stream.mixture: the weight of {url} is {weight}; give more than 0, or remove it")
