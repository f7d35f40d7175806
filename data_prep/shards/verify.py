"""Verify a dataset: the shards against the manifest, the indexes against the shards, every sample by its checksum."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from data_prep.config import MANIFEST_NAME
from data_prep.errors import DataError
from data_prep.shards.manifest import Manifest, Shard
from data_prep.shards.shard_index import Member, SampleStats, ShardIndex
from data_prep.shards.tar_scan import TarScan
from data_prep.storage.store import Store

REBUILD_HINT = "delete the shard and rerun `e4t prepare`: only it is rebuilt"
MAX_SAMPLES_LISTED = 20
"""Largest number of damaged samples of a shard that are named."""


def verify_shards(folder: Path | str) -> Iterator[str]:
    """Read every shard; yield one line for each problem, with the shard, the sample and what to do.

    A sample is compared with its checksum in the index. The index of a dataset that was prepared before checksums were
    stored is compared with names, offsets and sizes in the tar.
    """
    store, manifest = Store(str(folder)), Manifest.load(folder)
    for split, shards in manifest.splits.items():
        identities: set[str] = set()
        sound = True
        for shard in shards:
            for problem in _shard_problems(f"{split}/{shard.name}", shard, manifest, store, identities):
                yield problem
                sound = False
        if sound and len(identities) != manifest.identities.get(split, 0):
            yield (
                f"{store.url_of(MANIFEST_NAME)} counts {manifest.identities.get(split, 0)} identities in {split}, and "
                f"the shards have {len(identities)}; delete it and rerun `e4t prepare`: no shard is rebuilt"
            )


def _shard_problems(tar: str, shard: Shard, manifest: Manifest, store: Store, identities: set[str]) -> Iterator[str]:
    """Yield the problems of a shard, and add the identities of its samples to the set."""
    path = f"shard {store.url_of(tar)}"
    size = store.size(tar)
    if size is None:
        yield f"{path} is missing; rerun `e4t prepare`: only it is rebuilt"
        return
    try:
        index = ShardIndex.load(store, tar)
    except DataError as error:
        yield str(error)
        return
    described = Shard(index.shard, index.samples, index.bytes, index.sha256)
    if (described, index.config_digest) != (shard, manifest.config_digest):
        yield f"{path}: its index describes another shard; {REBUILD_HINT}"
        return
    identities.update(index.sample_stats[key].identity for key in index.members)
    if size != shard.bytes:
        yield f"{path} was changed after it was written ({size} bytes, not {shard.bytes}); {REBUILD_HINT}"
        return
    try:
        yield from _content_problems(path, tar, index, store)
    except OSError as error:
        yield f"{path} cannot be read ({error.strerror or error}); check the disk or the connection and verify again"


def _content_problems(path: str, tar: str, index: ShardIndex, store: Store) -> Iterator[str]:
    """Compare a tar with its index."""
    with store.open(tar) as file:
        scan = TarScan(file)
        problems = _sample_problems(index, scan)
    for key, problem in islice(problems.items(), MAX_SAMPLES_LISTED):
        yield f"{path}: sample {key}: {problem}; {REBUILD_HINT}"
    if len(problems) > MAX_SAMPLES_LISTED:
        yield f"{path}: {len(problems) - MAX_SAMPLES_LISTED} further samples are damaged; {REBUILD_HINT}"
    if not problems and scan.sha256 != index.sha256:
        yield f"{path} was changed after it was written (sha256 differs); {REBUILD_HINT}"
    if sum(index.reject_counts.values()) != len(index.rejects):
        yield f"{path}: its index counts other rejects than it lists; {REBUILD_HINT}"


def _sample_problems(index: ShardIndex, scan: TarScan) -> dict[str, str]:
    """Return one problem for each sample that differs between index and tar, by key."""
    problems: dict[str, str] = {}
    expected = {f"{key}.{extension}": part for key, parts in index.members.items() for extension, part in parts.items()}
    for name, found, data in scan:
        key, _, extension = name.rpartition(".")
        problem = _member_problem(extension, expected.pop(name, None), found)
        if problem is None and extension == "json":
            problem = _metadata_problem(data, index.sample_stats[key])
        if problem:
            problems.setdefault(key, problem)
    if expected:  # a damaged header hides everything after it
        name, *others = expected
        problems.setdefault(
            name.rpartition(".")[0], f"the tar has no member {name}, nor {len(others)} others that the index lists"
        )
    return problems


def _member_problem(extension: str, expected: Member | None, found: Member) -> str | None:
    if expected is None:
        return f"its {extension} is not in the index"
    if expected[:2] != found[:2]:
        return (
            f"the index locates {expected.size} bytes of {extension} at byte {expected.offset}, and the tar has "
            f"{found.size} at byte {found.offset}"
        )
    if expected.checksum not in (None, found.checksum):
        return f"its {extension} does not match its checksum"
    return None


def _metadata_problem(data: bytes, stats: SampleStats) -> str | None:
    try:
        metadata = json.loads(data)
        found = SampleStats(
            identity=metadata["identity"],
            source=metadata["source"],
            sha256=metadata["sha256"],
            hash=stats.hash,
            metrics=stats.metrics | dict(zip(("width", "height"), metadata["original_size"], strict=True)),
        )
        valid = isinstance(metadata["caption"], str)
    except (ValueError, TypeError, KeyError) as error:
        return f"its json cannot be read ({error})"
    return None if valid and found == stats else "its json has other metadata than the index"
