"""Measure how long a stream takes to resume; benchmarks/stream.py runs it.

    python -m benchmarks.stream_seek DATASET                  # until the first batch, decoded by two workers
    python -m benchmarks.stream_seek DATASET --locate-only    # until the next sample is located; needs no shards

Prints JSON: seconds and megabytes since before the stream was created. Imports are not counted, as a trainer has them
anyway.
"""

import argparse
import hashlib
import json
import time
from pathlib import Path

import psutil

from data_prep.config import DataLoaderConfig
from data_prep.shards.manifest import Manifest, Shard
from data_prep.storage.store import Store
from data_prep.stream.stream import ShardStream

SHARDS, SHARD_SAMPLES = 10_000, 1000


def synthetic_manifest(root: Path) -> None:
    """Write a manifest of 10 million samples without any shards."""
    shards = [
        Shard(f"train-{number:06d}.tar", SHARD_SAMPLES, 60_000_000 + number, hashlib.sha256(b"%d" % number).hexdigest())
        for number in range(SHARDS)
    ]
    Manifest(
        domain="face",
        resolution=512,
        format="webp",
        config_digest="0" * 64,
        identities={"train": SHARDS * SHARD_SAMPLES},
        kept=SHARDS * SHARD_SAMPLES,
        reject_counts={},
        splits={"train": shards},
    ).save(Store(str(root)))


def seek(root: Path, *, locate_only: bool) -> dict[str, float]:
    """Resume after three quarters of the second epoch."""
    process = psutil.Process()
    memory, started = process.memory_info().rss, time.perf_counter()
    samples = sum(shard.samples for shard in Manifest.load(root).shards("train")) if not locate_only else 10_000_000
    with ShardStream(
        root, "train", global_batch_size=32, samples_seen=samples * 7 // 4, config=DataLoaderConfig()
    ) as stream:
        if locate_only:
            stream.sequence.locate(stream.samples_seen)
        else:
            next(stream)
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "megabytes": (process.memory_info().rss - memory) / 1e6}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--locate-only", action="store_true")
    arguments = parser.parse_args()
    print(json.dumps(seek(arguments.dataset, locate_only=arguments.locate_only)))
