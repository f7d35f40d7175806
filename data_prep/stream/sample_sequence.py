"""The global sequence of samples: one dataset, or a weighted mixture of several."""

from typing import Any, NamedTuple

from data_prep.config import DataLoaderConfig
from data_prep.shards.manifest import Manifest
from data_prep.shards.reader import ShardReader
from data_prep.stream.shuffle import GlobalOrder, WeightedInterleave
from e4t_errors import ConfigError


class SampleLocation(NamedTuple):
    """Location of the sample at a global position."""

    dataset: int
    """Index of the dataset; 0 is the recipe's own."""
    epoch: int
    """Epoch of that dataset, from 0."""
    shard: int
    """Index of the shard in the split."""
    row: int
    """Index of the sample in the shard."""


class SampleSequence:
    """Maps global positions to samples and holds the readers of all datasets."""

    def __init__(self, root: str, split: str, config: DataLoaderConfig, *, seed: int) -> None:
        """Open the datasets. Raises ConfigError if they cannot be mixed, DataError if one cannot be used."""
        self.split, self.config, self.seed = split, config, seed
        others = [(ShardReader(url, split, config), weight) for url, weight in config.mixture.items()]
        # Sort by digest: the order must not depend on the locations of the datasets or their order in the recipe.
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
        """Manifest of every dataset."""
        return [reader.manifest for reader in self.readers]

    def locate(self, index: int) -> SampleLocation:
        """Return the location of the sample at a global position."""
        dataset, position = self.interleave.locate(index)
        return SampleLocation(dataset, *self.orders[dataset].locate(position))

    def windows_of(self, index: int) -> list[tuple[int, int]]:
        """Return, for every dataset, the epoch and window from which a global position reads."""
        return [
            order.window_of(self.interleave.count_before(index, dataset)) for dataset, order in enumerate(self.orders)
        ]

    def epoch_of(self, index: int) -> int:
        """Return the epoch, from 0, of the last sample of the recipe's own dataset before a global position."""
        return max(0, self.interleave.count_before(index, 0) - 1) // self.orders[0].epoch_samples

    def fingerprint(self) -> dict[str, Any]:
        """Return everything that determines the order apart from the seed, as flat plain data; checkpoints store it."""
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
            f"stream.mixture: the datasets have resolutions of {resolutions} pixels; prepare all with the same one"
        )
    if len({manifest.digest for manifest in manifests}) < len(manifests):
        raise ConfigError(
            "stream.mixture: a dataset is listed twice, under two addresses; list it once, with its whole weight"
        )


def _check_cache_size(readers: list[ShardReader], config: DataLoaderConfig) -> None:
    """Raise ConfigError if the windows do not fit into the cache, where their shards would evict each other."""
    remote = [reader for reader in readers if not reader.files.store.is_local]
    need = sum(
        sum(sorted((s.bytes for s in reader.shards), reverse=True)[: config.shuffle_window_shards]) for reader in remote
    )
    if need > config.cache_max_bytes:
        raise ConfigError(
            f"stream.cache_max_bytes is {config.cache_max_bytes}, but {config.shuffle_window_shards} shards "
            f"(stream.shuffle_window_shards) of each dataset take up to {need} bytes; give at least that, "
            "better twice as much to hide downloads, or a smaller window"
        )
