"""Configuration of ``e4t prepare`` (recipe section ``data``)."""

import re
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from data_prep.config.source import ReadConfig, SourceConfig
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
    """How to read the source: its type, identities and captions."""
    read: ReadConfig = field(default_factory=ReadConfig)
    """Which entries of the source are read, and how failed reads are repeated."""
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
        """Return the settings that determine the content of the shards.

        These are all but the locations of source and output, and how failed reads are repeated.
        """
        settings = {name: value for name, value in asdict(self).items() if name not in {"output", "source"}}
        return settings | {"read": self.read.content_settings()}

    @property
    def digest(self) -> str:
        """SHA-256 of ``content_settings``."""
        return sha256_json(self.content_settings())
