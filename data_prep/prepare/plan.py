"""Plan a dataset: list the source, assign images to shards by name alone, and record the configuration."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import chain, islice
from typing import Any

from data_prep.config import PrepareConfig
from data_prep.config_dict import differences, flatten, sha256_json
from data_prep.errors import DataError
from data_prep.prepare.splits import SPLITS, split_of
from data_prep.records import Ignored, Listed, Record, Reject
from data_prep.sources import open_source
from data_prep.storage.store import Store
from e4t_errors import ConfigError

DATASET_CONFIG_NAME = "dataset_config.json"
"""File in the dataset's folder with the settings that determine its content."""
OLD_DATASET_CONFIG_NAME = "prepare.json"
"""Name of that file before e4t 2, with the keys of that time."""
REJECTS_NAME, STATISTICS_NAME = "rejects.jsonl", "statistics.json"
WORK_DIR = ".e4t-prepare"
"""Folder in the output for everything that is needed only until the dataset is finished."""
PLAN_DIR = f"{WORK_DIR}/plan"
PLAN_INDEX = f"{PLAN_DIR}/plan.json"
PLAN_LEDGER = f"{PLAN_DIR}/ledger.jsonl"
"""Entries of the source that were rejected or ignored while it was listed."""


@dataclass(frozen=True, kw_only=True)
class PlannedShard:
    """The records of one shard: a unit of work that any worker may do."""

    name: str
    """Split and number, such as train-000003."""
    records: tuple[Record, ...]
    """Images of the shard, in order."""

    @property
    def split(self) -> str:
        """Split that the shard belongs to."""
        return self.name.rpartition("-")[0]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the records."""
        return sha256_json([vars(record) for record in self.records])


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All shards of a dataset."""

    config_digest: str
    """Digest of the ``PrepareConfig`` that the plan was made with."""
    shards: dict[str, str]
    """Digest of each shard by name, in the order train, val, test."""
    num_images: int
    """Number of images in all shards."""
    reject_counts: dict[str, int]
    """Number of images by reason that were rejected while the source was listed; ``PLAN_LEDGER`` lists them."""
    ignored_counts: dict[str, int]
    """Number of entries by reason that are not images to be read; ``PLAN_LEDGER`` lists them."""


def make_plan(config: PrepareConfig, store: Store) -> Plan:
    """List the source and divide each split into shards, holding one shard per split in memory.

    The content of a shard depends only on the listing, so workers that plan at the same time write the same files; the
    index is written last. Raises DataError if the source has no images, and ConfigError if captions are configured and
    no image has one.
    """
    listing = list_source(config)
    first = list(islice(listing, 1))  # a missing source raises before anything is written
    store.delete(PLAN_INDEX)
    by_split: dict[str, list[tuple[str, str]]] = {split: [] for split in SPLITS}
    buffers: dict[str, list[Record]] = {split: [] for split in SPLITS}
    num_images, num_without_caption, rejected, ignored = 0, 0, Counter[str](), Counter[str]()

    def flush_shard(split: str) -> None:
        shard = PlannedShard(name=f"{split}-{len(by_split[split]):06d}", records=tuple(buffers[split]))
        _save_shard(shard, store)
        by_split[split].append((shard.name, shard.digest))
        buffers[split].clear()

    with store.atomic_open(PLAN_LEDGER) as ledger:
        for item in chain(first, listing):
            if not isinstance(item, Record):
                ledger.write(ledger_line(item))
                (rejected if isinstance(item, Reject) else ignored)[item.reason] += 1
                continue
            num_images += 1
            num_without_caption += item.has_caption is False
            split = split_of(item.identity, config.splits)
            buffers[split].append(item)
            if len(buffers[split]) == config.shard_samples:
                flush_shard(split)
    for split in SPLITS:
        if buffers[split]:
            flush_shard(split)
    if not num_images:
        store.delete_folder(WORK_DIR)
        raise DataError(f"source {config.source} holds {_contents(rejected, ignored)}; {_what_to_set(rejected)}")
    if num_without_caption == num_images:
        store.delete_folder(WORK_DIR)
        raise no_captions_error(config, num_images)
    plan = Plan(
        config_digest=config.digest,
        shards={name: digest for split in SPLITS for name, digest in by_split[split]},
        num_images=num_images,
        reject_counts=dict(sorted(rejected.items())),
        ignored_counts=dict(sorted(ignored.items())),
    )
    store.write(PLAN_INDEX, json.dumps(asdict(plan)) + "\n")
    return plan


def no_captions_error(config: PrepareConfig, num_images: int) -> ConfigError:
    """Return the error for a source in which no image has the configured caption."""
    options = config.source_options
    settings = [f"caption_suffix {options.caption_suffix!r}"]
    if options.attributes:
        settings.append(f"attributes {options.attributes!r}")
    if options.caption_column:
        settings.append(f"caption_column {options.caption_column!r} (a field of a struct has a dotted name)")
    return ConfigError(
        f"source {config.source}: none of {num_images} images has the configured caption; check metadata files and "
        f"data.source_options: {', '.join(settings)}"
    )


def list_source(config: PrepareConfig) -> Iterator[Listed]:
    """List the source. Raises DataError or ConfigError; errors of the source must not pass for errors of the output."""
    try:
        yield from open_source(config)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"source {config.source} cannot be read ({reason}); rerun `e4t prepare`") from error


def ledger_line(item: Reject | Ignored) -> bytes:
    """Return the line of ``rejects.jsonl`` for an entry of the source that is not in the dataset."""
    status = "ignored" if isinstance(item, Ignored) else "retryable" if item.retryable else "rejected"
    fields = {name: value for name, value in asdict(item).items() if name != "retryable" and value}
    return json_line({"status": status, **fields})


def _contents(rejected: Counter[str], ignored: Counter[str]) -> str:
    """Describe a source without images, by what else it holds."""
    parts = []
    if rejected:
        parts.append(f"{rejected.total()} images, all of them rejected ({describe_counts(rejected)})")
    if ignored:
        parts.append(f"{ignored.total()} other entries ({describe_counts(ignored)})")
    return ", and ".join(parts) if rejected else "no images" + (f" but {parts[0]}" if parts else "")


def _what_to_set(rejected: Counter[str]) -> str:
    """Say which settings a source without images needs."""
    if rejected["path names no identity"]:
        return (
            "set data.source_options.pattern to the form of the paths, such as '{identity}' if each image is an "
            "identity of its own, or data.source_options.type to shards for webdataset shards"
        )
    return "check data.source, data.source_options and data.read"


def add_counts(*counts: Mapping[str, int]) -> dict[str, int]:
    """Add counts by reason."""
    total = Counter[str]()
    for each in counts:
        total.update(each)
    return dict(sorted(total.items()))


def describe_counts(counts: Mapping[str, int]) -> str:
    """Return counts by reason in readable form, the largest first: ``12 hidden, 3 extension .pdf``."""
    return ", ".join(f"{number} {reason}" for reason, number in sorted(counts.items(), key=lambda item: -item[1]))


def final_path(name: str) -> str:
    """Return the path of a shard in the finished dataset."""
    return f"{name.rpartition('-')[0]}/{name}.tar"


def load_plan(config: PrepareConfig, store: Store) -> Plan | None:
    """Return the plan of an unfinished dataset, or None if it is incomplete or of another configuration."""
    try:
        plan = Plan(**json.loads(store.read(PLAN_INDEX)))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return plan if plan.config_digest == config.digest else None


def load_shard(plan: Plan, name: str, store: Store) -> PlannedShard:
    """Load the records of a shard. Raises DataError if they differ from the plan."""
    try:
        shard = PlannedShard(name=name, records=tuple(_parse_records(store.read(f"{PLAN_DIR}/{name}.jsonl"))))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"plan of shard {name} in {store.url} cannot be read ({error}); rerun `e4t prepare`") from error
    if shard.digest != plan.shards[name]:
        raise DataError(f"plan of shard {name} in {store.url} was changed after it was written; rerun `e4t prepare`")
    return shard


def json_line(data: Mapping[str, object]) -> bytes:
    """Return data as a line of JSON."""
    return json.dumps(data, ensure_ascii=False).encode() + b"\n"


def _save_shard(shard: PlannedShard, store: Store) -> None:
    store.write(f"{PLAN_DIR}/{shard.name}.jsonl", b"".join(json_line(vars(record)) for record in shard.records))


def _parse_records(lines: bytes) -> Iterator[Record]:
    for line in lines.splitlines():
        data = json.loads(line)
        yield Record(**data | {"location": tuple(data["location"])})


def check_same_config(config: PrepareConfig, store: Store) -> None:
    """Raise ConfigError, naming the differences, if the output holds a dataset of another configuration or version."""
    try:
        recorded = flatten(json.loads(store.read(DATASET_CONFIG_NAME)))
    except ValueError as error:
        raise ConfigError(
            f"output {config.output}: {DATASET_CONFIG_NAME} is not a file of `e4t prepare` ({error}); give another "
            "data.output"
        ) from error
    except FileNotFoundError:
        if store.exists(OLD_DATASET_CONFIG_NAME):
            raise ConfigError(
                f"output {config.output} was prepared by an older version of e4t; training can still read it if it is "
                "finished, but `e4t prepare` cannot continue it: give another data.output, or delete it to prepare it "
                "again"
            ) from None
        return
    # Settings that did not exist when the dataset was made had the effect of today's default.
    defaults = flatten(_json_settings(PrepareConfig(source="-", output="-", domain="-")))
    changed = differences(defaults | recorded, flatten(_json_settings(config)))
    if changed:
        details = "; ".join(f"{name}: {old!r} there, {new!r} now" for name, old, new in changed)
        raise ConfigError(
            f"output {config.output} was made with another configuration ({details}); give another data.output or "
            "delete it"
        )


def write_config(config: PrepareConfig, store: Store) -> None:
    """Record in the output the settings that determine the dataset's content."""
    store.write(DATASET_CONFIG_NAME, json.dumps(_json_settings(config), indent=1) + "\n")


def _json_settings(config: PrepareConfig) -> dict[str, Any]:
    """Return the settings as JSON returns them: tuples become lists."""
    settings: dict[str, Any] = json.loads(json.dumps(config.content_settings()))
    return settings
