"""The line of samples that a stream walks along: one set, or several mixed."""

from typing import Any, NamedTuple

from data_prep.config import DataLoaderConfig
from data_prep.shards.manifest import Manifest
from data_prep.shards.reader import ShardReader
from data_prep.stream.shuffle import GlobalOrder, WeightedInterleave
from e4t import ConfigError


class SampleLocation(NamedTuple):
    """Where a row of the line lies."""

    dataset: int
    """Which set; 0 is the recipe's own."""
    epoch: int
    """Of that set."""
    shard: int
    """Of the set's split."""
    row: int
    """Of the shard."""


class SampleSequence:
    """Samples by global position, and what is needed to read them."""

    def __init__(self, root: str, split: str, config: DataLoaderConfig, *, seed: int) -> None:
        """Open the sets. Raises ConfigError if they do not fit together, DataError if one is unfit."""
        self.split, self.config, self.seed = split, config, seed
        others = [(ShardReader(url, split, config), weight) for url, weight in config.mixture.items()]
        # By digest, so that the order is the same wherever the sets lie and however the recipe lists them.
        others.sort(key=lambda other: other[0].manifest.digest)
        self.roots = [root, *(other.files.store.url for other, _ in others)]
        self.readers = [ShardReader(root, split, config), *(other for other, _ in others)]
        _check_compatible(self.manifests)
        _check_cache_size(self.readers, config)
        self.interleave = WeightedInterleave([1.0, *(weight for _, weight in others)], seed=seed)
        self.orders = [
            GlobalOrder(reader.counts, seed=seed, window_shards=config.shuffle_window_shards) for reader in self.readers
        ]

    @property
    def manifests(self) -> list[Manifest]:
        """Of every set."""
        return [reader.manifest for reader in self.readers]

    def locate(self, index: int) -> SampleLocation:
        """What stands at a global position."""
        dataset, position = self.interleave.locate(index)
        return SampleLocation(dataset, *self.orders[dataset].locate(position))

    def window_of(self, index: int) -> list[tuple[int, int]]:
        """Epoch and window, of every set, from which on a position reads."""
        return [
            order.window_of(self.interleave.count_before(index, dataset)) for dataset, order in enumerate(self.orders)
        ]

    def epoch_of(self, index: int) -> int:
        """Epoch of the own set's last sample before a position, from 0."""
        return max(0, self.interleave.count_before(index, 0) - 1) // self.orders[0].epoch_samples

    def fingerprint(self) -> dict[str, Any]:
        """All that decides the order beside the seed."""
        primary, *others = self.manifests
        fractions = [f"{count} of {self.interleave.block_size}" for count in self.interleave.block_counts]
        return {
            "split": self.split,
            "shuffle_window_shards": self.config.shuffle_window_shards,
            "dataset": primary.digest,
            "fraction": fractions[0],
            **{f"mixture.{other.digest}": fraction for other, fraction in zip(others, fractions[1:], strict=True)},
        }


def _check_compatible(manifests: list[Manifest]) -> None:
    resolutions = [manifest.resolution for manifest in manifests]
    if len(set(resolutions)) > 1:
        raise ConfigError(
            f"stream.mixture: the sets' pictures have sides of {resolutions} pixels; prepare all with the same one"
        )
    if len({manifest.digest for manifest in manifests}) < len(manifests):
        raise ConfigError(
            "stream.mixture: a set is named twice, under two addresses; name it once, with its whole weight"
        )


def _check_cache_size(readers: list[ShardReader], config: DataLoaderConfig) -> None:
    """Every window must fit, or its shards would push each other out for each sample."""
    remote = [reader for reader in readers if not reader.files.store.is_local]
    need = sum(
        sum(sorted((s.bytes for s in reader.shards), reverse=True)[: config.shuffle_window_shards]) for reader in remote
    )
    if need > config.cache_max_bytes:
        raise ConfigError(
            f"stream.cache_max_bytes is {config.cache_max_bytes}, and {config.shuffle_window_shards} shards (stream.shuffle_window_shards) of "
            f"each set take up to {need}; give at least that, twice as much to hide downloads, or a smaller window"
        )
