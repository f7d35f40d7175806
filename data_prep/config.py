"""What ``e4t prepare`` does and how the stream reads, each field explained where it is declared."""

import hashlib
import json
import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from data_prep.errors import ConfigError

PILLOW_MAX_PIXELS = 178_956_970
"""Pillow refuses to open anything larger, whatever our own limit says."""
WEBP_MAX_SIDE = 16_383


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
        shares = (self.train, self.val, self.test)
        if not (min(shares) >= 0 and abs(sum(shares) - 1) <= 1e-9):
            raise ConfigError(f"data.splits (train, val, test) is {shares}; each must be at least 0 and the sum 1")


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Pictures to shards."""

    source: str
    """Folder of pictures."""
    output: str
    """Folder that gets the manifest and the shards."""
    concept: str
    """The domain's word: face, cat, art."""
    resolution: int = 512
    """Side of the square pictures, in pixels."""
    pattern: str = "{identity}/{picture}"
    """How a path (relative to the source, without suffix) names the identity. A field matches anything but a slash, and
    as much as it can. Splits are by identity."""
    caption_suffix: str = ".txt"
    """A picture's caption is the first line of the file beside it with this suffix, if there is one."""
    caption_template: str = "a photo of a {concept}"
    """Caption of a picture without a caption file."""
    codec: Literal["png", "webp", "jpg"] = "webp"
    """How pictures are stored."""
    quality: int = 95
    """Of webp and jpg, 1 to 100."""
    lossless: bool = False
    """Store webp without loss; larger than quality 95, smaller than png."""
    shard_samples: int = 1000
    """Pictures planned into a shard; those that are kept out shrink it."""
    min_side: int = 16
    """A picture whose shorter side has fewer pixels is kept out."""
    max_pixels: int = 100_000_000
    """A picture of more pixels is taken for a decompression bomb and kept out."""
    splits: SplitFractions = field(default_factory=SplitFractions)
    """Shares of the identities."""
    workers: int = 0
    """Processes; 0 means one a core. The shards are the same for any number."""

    def __post_init__(self) -> None:
        for name in ("source", "output", "concept"):
            if not getattr(self, name):
                raise ConfigError(f"data.{name} is empty; give one")
        for name in ("resolution", "shard_samples", "min_side", "max_pixels"):
            if getattr(self, name) < 1:
                raise ConfigError(f"data.{name} is {getattr(self, name)}; give at least 1")
        if self.max_pixels > PILLOW_MAX_PIXELS:
            raise ConfigError(f"data.max_pixels is {self.max_pixels}; Pillow opens at most {PILLOW_MAX_PIXELS}")
        if self.workers < 0:
            raise ConfigError(f"data.workers is {self.workers}; give 0 for one a core, or a number")
        self._check_codec()
        self._check_names()

    def _check_codec(self) -> None:
        if self.codec not in ("png", "webp", "jpg"):
            raise ConfigError(f"data.codec is {self.codec!r}; give png, webp or jpg")
        if not 1 <= self.quality <= 100:
            raise ConfigError(f"data.quality is {self.quality}; give 1 to 100")
        if self.lossless and self.codec != "webp":
            raise ConfigError(f"data.lossless is for webp, and data.codec is {self.codec}; png has no loss, jpg always")
        if self.codec == "webp" and self.resolution > WEBP_MAX_SIDE:
            raise ConfigError(
                f"data.resolution is {self.resolution}; webp holds up to {WEBP_MAX_SIDE}: give png or jpg"
            )

    def _check_names(self) -> None:
        fields = Counter(re.findall(r"\{(\w*)\}", self.pattern))
        if "identity" not in fields:
            raise ConfigError(f"data.pattern {self.pattern!r} names no {{identity}}; splits are by identity: say where")
        if max(fields.values()) > 1 or not all(name.isidentifier() for name in fields):
            raise ConfigError(f"data.pattern {self.pattern!r} must give each field another name, of letters")
        if not re.fullmatch(r"(\.[^./\\]+)+", self.caption_suffix):
            raise ConfigError(f"data.caption_suffix is {self.caption_suffix!r}; give a suffix such as .txt")
        try:
            self.default_caption()
        except (LookupError, ValueError, AttributeError) as error:
            raise ConfigError(
                f"data.caption_template {self.caption_template!r} does not format ({error!r}); "
                "only {concept} is known"
            ) from error

    def default_caption(self) -> str:
        """Caption of a picture without a caption file."""
        return self.caption_template.format(concept=self.concept)

    def what_is_made(self) -> dict[str, Any]:
        """The fields that decide the shards' bytes: a moved folder or another number of workers makes the same set."""
        return {name: value for name, value in asdict(self).items() if name not in {"output", "workers", "source"}}

    @property
    def digest(self) -> str:
        """Sha256 of ``what_is_made``."""
        return digest_of(self.what_is_made())


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """How shards are read in training."""

    window_shards: int = 16
    """Samples are shuffled within so many shards, which keeps reads near each other. Part of the order: do not change
    it in the middle of a run."""
    threads: int = 2
    """Decoding threads."""
    prefetch: int = 4
    """Batches decoded ahead."""
    flip: bool = False
    """Mirror half of the pictures. Leave it off where captions or identities tell left from right."""

    def __post_init__(self) -> None:
        for name in ("window_shards", "threads", "prefetch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"stream.{name} is {getattr(self, name)}; give at least 1")


def digest_of(data: Any) -> str:  # noqa: ANN401 - any plain data
    """Sha256 of plain data in canonical JSON."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
