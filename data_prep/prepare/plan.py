"""The plan: which pictures go into which shard, decided by names alone, before any picture is opened."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import chain, islice
from typing import Any

from data_prep.config import PrepareConfig, digest_of
from data_prep.config_diff import differences, flatten
from data_prep.errors import ConfigError, DataError
from data_prep.prepare.splits import SPLITS, split_of
from data_prep.records import Record, Reject
from data_prep.sources import open_source
from data_prep.storage.store import Store

FOLDER = "work/plan"
INDEX = f"{FOLDER}/plan.json"
REJECTS = f"{FOLDER}/rejects.jsonl"


@dataclass(frozen=True, kw_only=True)
class PlannedShard:
    """One unit of work; any worker may do it."""

    name: str
    """Split and number: train-000003."""
    records: tuple[Record, ...]
    """What goes into it, in this order."""

    @property
    def split(self) -> str:
        """Its split."""
        return self.name.rpartition("-")[0]

    @cached_property
    def digest(self) -> str:
        """Sha256 over what goes into it."""
        return digest_of([asdict(record) for record in self.records])


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All shards of a set."""

    config_digest: str
    """Of the configuration that it was made with."""
    shards: dict[str, str]
    """Digest by name, in the set's order: train, val, test."""
    pictures: int
    """In all shards."""
    rejected: int
    """Pictures that the listing kept out; they are in ``REJECTS``."""


def make_plan(config: PrepareConfig, store: Store) -> Plan:
    """List the source and cut each split into shards; a shard at a time is in memory.

    What is in a shard follows from the listing alone, so ranks that plan at the same time write the same files; the
    index comes last. Raises DataError if the source has no picture.
    """
    listing = iter(open_source(config))
    first = list(islice(listing, 1))  # a source that is missing says so before anything is written
    store.delete(INDEX)
    by_split: dict[str, list[tuple[str, str]]] = {split: [] for split in SPLITS}
    waiting: dict[str, list[Record]] = {split: [] for split in SPLITS}
    pictures, rejected, reason = 0, 0, ""

    def cut(split: str) -> None:
        shard = PlannedShard(name=f"{split}-{len(by_split[split]):06d}", records=tuple(waiting[split]))
        _save(shard, store)
        by_split[split].append((shard.name, shard.digest))
        waiting[split].clear()

    with store.whole(REJECTS) as kept_out:
        for item in chain(first, listing):
            if isinstance(item, Reject):
                kept_out.write(json_line(asdict(item)))
                rejected, reason = rejected + 1, item.reason
                continue
            pictures += 1
            split = split_of(item.identity, config.splits)
            waiting[split].append(item)
            if len(waiting[split]) == config.shard_samples:
                cut(split)
    for split in SPLITS:
        if waiting[split]:
            cut(split)
    if not pictures:
        store.delete_folder("work")
        what = f"{rejected} pictures, none of which can be taken ({reason})" if rejected else "no picture"
        raise DataError(f"source {config.source} holds {what}; check data.source and data.read")
    shards = {name: digest for split in SPLITS for name, digest in by_split[split]}
    plan = Plan(config_digest=config.digest, shards=shards, pictures=pictures, rejected=rejected)
    store.write(INDEX, json.dumps(asdict(plan)) + "\n")
    return plan


def load_plan(config: PrepareConfig, store: Store) -> Plan | None:
    """The plan of an unfinished set, if it was made whole and with this configuration."""
    try:
        plan = Plan(**json.loads(store.read(INDEX)))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return plan if plan.config_digest == config.digest else None


def load_shard(plan: Plan, name: str, store: Store) -> PlannedShard:
    """One shard's part of the plan. Raises DataError if it is not the one that was planned."""
    try:
        shard = PlannedShard(name=name, records=tuple(_records(store.read(f"{FOLDER}/{name}.jsonl"))))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"plan of shard {name} in {store.url} cannot be read ({error}); rerun `e4t prepare`") from error
    if shard.digest != plan.shards[name]:
        raise DataError(f"plan of shard {name} in {store.url} changed meanwhile; rerun `e4t prepare`")
    return shard


def json_line(data: Mapping[str, object]) -> bytes:
    """A line of JSON."""
    return json.dumps(data, ensure_ascii=False).encode() + b"\n"


def _save(shard: PlannedShard, store: Store) -> None:
    store.write(f"{FOLDER}/{shard.name}.jsonl", b"".join(json_line(asdict(record)) for record in shard.records))


def _records(lines: bytes) -> Iterator[Record]:
    for line in lines.splitlines():
        data = json.loads(line)
        yield Record(**data | {"place": tuple(data["place"])})


FILE = "prepare.json"


def check_claim(config: PrepareConfig, store: Store) -> None:
    """Raise ConfigError, with the difference, if the folder's set is made with another configuration."""
    try:
        before = flatten(json.loads(store.read(FILE)))
    except FileNotFoundError:
        return
    changed = differences(before, flatten(_plain(config)))
    if changed:
        shown = "; ".join(f"{name}: {then!r} there, {now!r} now" for name, then, now in changed)
        raise ConfigError(
            f"output {config.output} was made with another configuration ({shown}); give another data.output or "
            "delete it"
        )


def claim(config: PrepareConfig, store: Store) -> None:
    """Write the note."""
    store.write(FILE, json.dumps(_plain(config), indent=1) + "\n")


def _plain(config: PrepareConfig) -> dict[str, Any]:
    """As it comes back from JSON: tuples are lists."""
    plain: dict[str, Any] = json.loads(json.dumps(config.what_is_made()))
    return plain
