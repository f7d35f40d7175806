"""Configuration of the data loader (recipe section ``stream``)."""

from dataclasses import dataclass, field
from typing import Literal

from e4t_errors import ConfigError


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
