"""Measure what the checksums of samples cost the stream.

    python -m benchmarks.stream_checksums --rounds 9

Run it from the root of a checkout, in its environment. Every sample of a dataset of 512 x 512 pixels is read in one
process, with checksums and from a copy of the indexes without them; so are cached features of the size that
Stable Diffusion 1 has. Ratios are those of CPU seconds, round by round. "share" is the time of the checksums alone
relative to the reading with them, which varies less.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.harness import format_ratio, summarize_ratios, time_interleaved, write_report
from benchmarks.stream import prepare_datasets
from data_prep.shards.feature_files import FeatureTable
from data_prep.shards.features import FeatureReader, write_features
from data_prep.shards.reader import ShardReader
from data_prep.shards.samples import ShardSamples
from data_prep.shards.shard_index import ShardIndex
from data_prep.storage.store import Store

Seconds = dict[str, list[float]]
console = Console(width=120)


def compare_images(root: Path, rounds: int) -> Seconds:
    """Time reading all images: with checksums, without them, and the checksums alone."""
    plain = shutil.copytree(root, root.with_name(f"{root.name}-plain"))
    for path in plain.glob("train/*.json"):
        index = json.loads(path.read_text())
        index["version"] = 2
        for parts in index["members"].values():
            parts |= {extension: part[:2] for extension, part in parts.items()}
        path.write_text(json.dumps(index))

    checked, unchecked = (ShardSamples(folder, "train") for folder in (root, plain))
    contents = [
        (member, f"{key}.{extension}", (root / "train" / tar.name).read_bytes()[member.offset :][: member.size])
        for tar in checked.manifest.shards("train")
        for key, parts in ShardIndex.load(Store(str(root)), f"train/{tar.name}").members.items()
        for extension, member in parts.items()
    ]
    return time_interleaved(
        {
            "checked": lambda: read_images(checked),
            "unchecked": lambda: read_images(unchecked),
            "checksums": lambda: [member.check(name, data) for member, name, data in contents],
        },
        rounds,
        time.process_time,
    )


def read_images(samples: ShardSamples) -> None:
    """Read all images of a split."""
    for shard, count in enumerate(samples.counts):
        for row in range(count):
            samples.read_image(shard, row)


def compare_features(root: Path, rounds: int) -> Seconds:
    """Time reading all cached features and their captions: with checksums, without them, and the checksums alone."""
    for folder in ("checked", "unchecked"):
        write_features(str(root), folder, {}, _features)
    for path in (root / "unchecked" / "train").glob("*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"rows": None}))
    reader = ShardReader(root, "train")
    positions = [(shard, row) for shard, count in enumerate(reader.counts) for row in range(count)]

    def read(features: FeatureReader) -> Callable[[], list[dict[str, Tensor]]]:
        def read_all() -> list[dict[str, Tensor]]:
            rows = []
            for shard, row in positions:
                reader.metadata(shard, row)
                rows.append({name: value.clone() for name, value in features.read(shard, row, flipped=False).items()})
            return rows

        return read_all

    checked, unchecked = (FeatureReader(str(root), folder, "train", {}) for folder in ("checked", "unchecked"))
    tables = [FeatureTable(load_file(path)) for path in sorted((root / "checked" / "train").glob("*.safetensors"))]
    return time_interleaved(
        {
            "checked": read(checked),
            "unchecked": read(unchecked),
            "checksums": lambda: [tables[shard].checksum(row, 0) for shard, row in positions],
        },
        rounds,
        time.process_time,
    )


def _features(pixels: Tensor) -> dict[str, Tensor]:
    """Return tensors of the sizes that Stable Diffusion 1.5 and ViT-H have."""
    sizes = {"mean": (4, 64, 64), "log_variance": (4, 64, 64), "class_tokens": (16, 1280)}
    return {name: torch.rand(len(pixels), *size).half() for name, size in sizes.items()}


def main() -> None:
    """Prepare datasets, measure, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="file for all measurements; printed if omitted")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    report: dict[str, Seconds] = {}
    with tempfile.TemporaryDirectory() as work:
        datasets = prepare_datasets(Path(work), arguments.images, ["webp", "jpg"])
        for image_format, root in datasets.items():
            report[image_format] = compare_images(root, arguments.rounds)
        report["features"] = compare_features(datasets["jpg"], arguments.rounds)
    for name, seconds in report.items():
        ratio = format_ratio(summarize_ratios(seconds["checked"], seconds["unchecked"]))
        share = format_ratio(summarize_ratios([100 * each for each in seconds["checksums"]], seconds["checked"]))
        console.print(f"{name}: CPU with checksums / without {ratio}; share of the checksums {share} %")
    write_report({"images": arguments.images, "rounds": arguments.rounds}, report, arguments.json)


if __name__ == "__main__":
    main()
