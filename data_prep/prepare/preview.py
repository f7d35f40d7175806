"""Show what ``e4t prepare`` would read, without writing anything."""

from collections import Counter
from dataclasses import dataclass

from data_prep.config import PrepareConfig
from data_prep.errors import SampleRejected
from data_prep.prepare.ownership import check_output
from data_prep.prepare.plan import check_same_config, list_source
from data_prep.prepare.splits import SPLITS, split_of
from data_prep.records import Ignored, Record, Reject
from data_prep.sources import open_source
from data_prep.sources.names import split_suffix
from data_prep.storage.store import Store

FIRST_SAMPLES = 10
"""Number of samples that are shown with their captions."""


@dataclass(frozen=True, kw_only=True)
class SamplePreview:
    """An image as the source lists it."""

    source: str
    """Where the image comes from, in readable form."""
    identity: str
    """Person or object in the image."""
    caption: str
    """Caption that the sample would have, or why it cannot be read."""


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What a source holds."""

    suffix_counts: dict[str, int]
    """Number of images by the suffix of their names, in lower case."""
    split_counts: dict[str, int]
    """Number of images in each split."""
    captions_found: int
    """Number of images with a caption of their own, in a column or in a file that exists."""
    captions_missing: int
    """Number of images for which the configured caption was not found."""
    reject_counts: dict[str, int]
    """Number of images by reason that are rejected by their names or entries, without reading them."""
    ignored_counts: dict[str, int]
    """Number of entries by reason that are not images to be read."""
    samples: list[SamplePreview]
    """The first images."""


def preview(config: PrepareConfig) -> Preview:
    """List the source, and read the captions of the first images. Raises as ``prepare`` does for source and output."""
    store = Store(config.output)
    check_output(config, store)
    check_same_config(config, store)
    suffixes, splits = Counter[str](), Counter[str](dict.fromkeys(SPLITS, 0))
    rejected, ignored = Counter[str](), Counter[str]()
    captions, first = Counter[bool | None](), list[Record]()
    for item in list_source(config):
        if isinstance(item, Reject):
            rejected[item.reason] += 1
        elif isinstance(item, Ignored):
            ignored[item.reason] += 1
        else:
            suffixes[split_suffix(item.source)[1].lower() or "no suffix"] += 1
            captions[item.has_caption] += 1
            splits[split_of(item.identity, config.splits)] += 1
            if len(first) < FIRST_SAMPLES:
                first.append(item)
    source = open_source(config)

    def caption_of(record: Record) -> str:
        try:
            return source.caption(record) or config.default_caption()
        except (OSError, SampleRejected) as error:
            return f"({error})"

    return Preview(
        suffix_counts=dict(suffixes.most_common()),
        split_counts=dict(splits),
        captions_found=captions[True],
        captions_missing=captions[False],
        reject_counts=dict(rejected.most_common()),
        ignored_counts=dict(ignored.most_common()),
        samples=[
            SamplePreview(source=record.source, identity=record.identity, caption=caption_of(record))
            for record in first
        ],
    )
