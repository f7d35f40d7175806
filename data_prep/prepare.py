"""Pictures to shards: survey, plan, make what is missing, join."""

import json
import multiprocessing
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from data_prep.config import PrepareConfig
from data_prep.errors import ConfigError, DataError
from data_prep.files import write_whole
from data_prep.manifest import Manifest, Shard
from data_prep.shards import ShardPlan, write_shard
from data_prep.sidecar import Sidecar
from data_prep.sources import FolderSource, Record, Reject
from data_prep.splits import SPLITS, split_of
from data_prep.survey import Entry, survey


def prepare(config: PrepareConfig, on_shard: Callable[[int, int], None] | None = None) -> Manifest:
    """Make the set, or what is missing of it, and return its manifest.

    Same pictures and configuration give the same shards for any number of workers. ``on_shard(done, total)`` is called
    after each shard. Raises DataError for a bad source or target, ConfigError for an output that was made with another
    configuration; a bad source or configuration leaves the output as it was.
    """
    records, rejects = _records(config)
    try:
        _claim(config)
        with _pool(config, len(records)) as pool:
            entries, unfit = survey(records, config, pool)
            plans = plan(entries, config)
            sidecars = []
            for done, sidecar in enumerate(pool.map(partial(write_shard, config=config), plans), 1):
                sidecars.append(sidecar)
                if on_shard:
                    on_shard(done, len(plans))
        manifest = _join(config, plans, sidecars, [*rejects, *unfit])
        _remove_stale(config, plans)
    except OSError as error:
        raise DataError(
            f"output {config.output} cannot be written ({error.strerror}); make room, or give another data.output, "
            "and rerun"
        ) from error
    except BrokenProcessPool as error:
        raise DataError(
            f"output {config.output}: a worker died, likely for want of memory; give fewer data.workers and rerun: "
            "finished shards are kept"
        ) from error
    return manifest


def plan(entries: Iterable[Entry], config: PrepareConfig) -> list[ShardPlan]:
    """Cut each split into shards; what is in a shard follows from the sorted entries alone."""
    by_split: dict[str, list[Entry]] = {split: [] for split in SPLITS}
    for entry in entries:
        by_split[split_of(entry.identity, config.splits)].append(entry)
    return [
        ShardPlan(
            path=Path(config.output) / split / f"{split}-{number:06d}.tar",
            entries=tuple(members[start : start + config.shard_samples]),
        )
        for split, members in by_split.items()
        for number, start in enumerate(range(0, len(members), config.shard_samples))
    ]


def _records(config: PrepareConfig) -> tuple[list[Record], list[Reject]]:
    found = list(FolderSource.of(config))
    records = [item for item in found if isinstance(item, Record)]
    rejects = [item for item in found if isinstance(item, Reject)]
    if not records:
        what = f"{len(rejects)} pictures, none of which fits {config.pattern!r}" if rejects else "no picture"
        raise DataError(f"source {config.source} holds {what}; check data.source and data.pattern")
    return records, rejects


def _claim(config: PrepareConfig) -> None:
    """Note in the output what it is made with; refuse one that was made otherwise."""
    path = Path(config.output) / "prepare.json"
    now = config.what_is_made()
    if path.exists():
        before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        changed = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
        if changed:
            shown = "; ".join(f"{name}: {before.get(name)!r} there, {now.get(name)!r} now" for name in changed)
            raise ConfigError(
                f"output {config.output} was made with another configuration ({shown}); give another data.output "
                "or delete it"
            )
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(now, indent=1) + "\n")


def _pool(config: PrepareConfig, pictures: int) -> Executor:
    # Affinity, where there is such a thing, knows what a scheduler has given us of the machine.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(config.workers or cores, pictures)
    if workers == 1:
        return ThreadPoolExecutor(1)
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


def _join(config: PrepareConfig, plans: list[ShardPlan], sidecars: list[Sidecar], rejects: list[Reject]) -> Manifest:
    """Write rejects.jsonl and, last, the manifest. Raises DataError if nothing was kept."""
    output = Path(config.output)
    lines = [asdict(reject) for reject in rejects] + [line for sidecar in sidecars for line in sidecar.rejects]
    lines.sort(key=lambda line: (line["source"], line["key"]))
    write_whole(output / "rejects.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    dropped = dict(sorted(Counter(line["reason"] for line in lines).items()))
    splits: dict[str, list[Shard]] = {split: [] for split in SPLITS}
    identities: dict[str, set[str]] = {split: set() for split in SPLITS}
    for made, sidecar in zip(plans, sidecars, strict=True):
        split = made.path.parent.name
        splits[split].append(Shard(sidecar.shard, sidecar.samples, sidecar.bytes, sidecar.sha256))
        identities[split] |= {entry.identity for entry in made.entries if entry.key in sidecar.members}
    kept = sum(sidecar.samples for sidecar in sidecars)
    if not kept:
        reasons = ", ".join(f"{reason} {count}" for reason, count in dropped.items())
        raise DataError(
            f"source {config.source}: every picture was kept out ({reasons}); see {output / 'rejects.jsonl'}"
        )
    manifest = Manifest(
        concept=config.concept,
        resolution=config.resolution,
        codec=config.codec,
        config_digest=config.digest,
        identities={split: len(names) for split, names in identities.items()},
        kept=kept,
        dropped=dropped,
        splits=splits,
    )
    manifest.save(output)
    return manifest


def _remove_stale(config: PrepareConfig, plans: list[ShardPlan]) -> None:
    """Delete shards that the plan no longer has, and what an interrupted run left half written."""
    planned = {name for made in plans for name in (made.path.name, f"{made.path.stem}.json")}
    for split in SPLITS:
        for path in (Path(config.output) / split).glob("*"):
            ours = re.fullmatch(rf"\.?{split}-\d{{6,}}\.(tar|json)(\.partial)?", path.name)
            if ours and path.name not in planned:
                path.unlink()
