"""The shard format on disk: manifest, shard index, samples and cached features."""
