import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import webdataset

from data_prep.config import FilterConfig, PrepareConfig, SplitFractions
from data_prep.errors import DataError
from data_prep.prepare.executors import LocalExecutor
from data_prep.prepare.pipeline import prepare
from data_prep.prepare.splits import split_of
from data_prep.shards.manifest import Manifest
from data_prep.shards.verify import verify_shards
from data_prep.storage.store import Store
from e4t_errors import ConfigError

ConfigFor = Callable[..., PrepareConfig]
PrepareDataset = Callable[[PrepareConfig], Manifest]
ReadFiles = Callable[[Path], dict[str, bytes]]
ALL_IN_TRAIN = SplitFractions(train=1, val=0, test=0)


def keys(output: Path, split: str) -> list[str]:
    tars = sorted(str(path) for path in (output / split).glob("*.tar"))
    return [sample["__key__"] for sample in webdataset.WebDataset(tars, shardshuffle=False)]


def test_a_finished_dataset_has_shards_a_manifest_and_three_more_files(
    images: Path, config_for: ConfigFor, prepare_dataset: PrepareDataset
) -> None:
    config = config_for()
    prepare_dataset(config)
    files = {path.name for path in Path(config.output).iterdir()}
    assert files == {"manifest.json", "dataset_config.json", "rejects.jsonl", "statistics.json", "train", "val", "test"}


def test_a_rerun_only_rebuilds_missing_shards(
    images: Path, config_for: ConfigFor, prepare_dataset: PrepareDataset, read_files: ReadFiles
) -> None:
    config = config_for()
    output = Path(config.output)
    prepare_dataset(config)
    before = read_files(output)
    times = {path: path.stat().st_mtime_ns for path in output.rglob("*.tar")}
    lost = output / "train" / "train-000001.tar"
    lost.unlink()
    (output / "train" / ".train-000002.tar.0a1b2c3d.partial").write_bytes(b"half a shard")
    (output / "train" / ".train-000001.json.0a1b2c3d.partial").write_bytes(b"{")
    prepare_dataset(config)
    assert read_files(output) == before
    assert {path for path, time in times.items() if path.stat().st_mtime_ns != time} == {lost}


def test_every_image_is_stored_once_and_no_identity_is_in_two_splits(
    images: Path, config_for: ConfigFor, prepare_dataset: PrepareDataset
) -> None:
    config = config_for()
    manifest = prepare_dataset(config)
    identities = {split: {key.split("__")[0] for key in keys(Path(config.output), split)} for split in manifest.splits}
    assert manifest.kept == sum(shard.samples for shards in manifest.splits.values() for shard in shards) == 48
    assert manifest.identities == {split: len(names) for split, names in identities.items()}
    assert sum(manifest.identities.values()) == len(set.union(*identities.values())) == 12
    assert all(split_of(name, config.splits) == split for split, names in identities.items() for name in names)


def test_shards_are_planned_from_the_listing_and_rejects_make_them_smaller(
    images: Path, config_for: ConfigFor, prepare_dataset: PrepareDataset
) -> None:
    (images / "cat00" / "1.png").write_text("not an image")
    shards = prepare_dataset(config_for(splits=ALL_IN_TRAIN)).splits["train"]
    assert [shard.samples for shard in shards] == [4, 5, 5, 5, 5, 5, 5, 5, 5, 3]


def test_rejected_images_are_counted_by_reason_and_listed(
    images: Path, config_for: ConfigFor, prepare_dataset: PrepareDataset
) -> None:
    config = config_for(splits=ALL_IN_TRAIN)
    (images / "cat01" / "text.png").write_text("not an image")
    (images / "cat02" / "empty1.jpg").touch()
    (images / "cat03" / "empty2.jpg").touch()
    (images / "cat04" / "copy.png").write_bytes((images / "cat03" / "0.png").read_bytes())
    (images / "stray.png").write_bytes((images / "cat05" / "0.png").read_bytes())
    manifest = prepare_dataset(config)
    assert manifest.kept == 48
    assert manifest.reject_counts == {
        "empty file": 2,
        "exact duplicate": 1,
        "not an image": 1,
        "path names no identity": 1,
    }
    lines = [json.loads(line) for line in (Path(config.output) / "rejects.jsonl").read_text().splitlines()]
    rejected = {"status": "rejected"}
    assert rejected | {"key": "cat01__text", "source": "cat01/text.png", "reason": "not an image"} in lines
    assert rejected | {"key": "cat04__copy", "source": "cat04/copy.png", "reason": "exact duplicate"} in lines
    assert len(lines) == 5


def test_an_output_of_another_configuration_is_refused_and_the_differences_are_named(
    images: Path, config_for: ConfigFor, prepare_dataset: PrepareDataset, read_files: ReadFiles
) -> None:
    config = config_for()
    prepare_dataset(config)
    before = read_files(Path(config.output))
    with pytest.raises(ConfigError, match=r"\(filters.min_side: 16 there, 20 now; resolution: 16 there, 32 now\)"):
        prepare_dataset(config_for(resolution=32, filters=FilterConfig(min_side=20)))
    assert read_files(Path(config.output)) == before


def test_changed_images_and_captions_are_noticed_and_unplanned_shards_are_removed(
    images: Path, config_for: ConfigFor, prepare_dataset: PrepareDataset
) -> None:
    config = config_for(splits=ALL_IN_TRAIN)
    before = prepare_dataset(config).splits["train"]
    (images / "cat00" / "0.txt").write_text("another caption\n")
    for path in [*(images / "cat11").iterdir(), *(images / "cat10").glob("3.*")]:
        path.unlink()
    after = prepare_dataset(config).splits["train"]
    unchanged = [shard.sha256 == old.sha256 for shard, old in zip(after, before, strict=False)]
    assert unchanged == [False, *7 * [True], False]
    assert {path.name for path in (Path(config.output) / "train").glob("*.tar")} == {shard.name for shard in after}
    assert list(verify_shards(config.output)) == []


def test_adding_identities_does_not_move_existing_ones_to_another_split(
    images: Path, config_for: ConfigFor, prepare_dataset: PrepareDataset, tmp_path: Path
) -> None:
    few, many = config_for(output=tmp_path / "few"), config_for(output=tmp_path / "many")
    prepare_dataset(few)
    (images / "aaa").mkdir()
    (images / "cat00" / "0.png").rename(images / "aaa" / "0.png")
    prepare_dataset(many)
    for split in ("train", "val", "test"):
        was = {key.split("__")[0] for key in keys(tmp_path / "few", split)}
        assert was <= {key.split("__")[0] for key in keys(tmp_path / "many", split)}


@pytest.mark.parametrize("source", ["missing", "no images", "no identities"])
def test_a_source_without_images_is_refused_before_any_file_is_written(
    tmp_path: Path, config_for: ConfigFor, prepare_dataset: PrepareDataset, source: str
) -> None:
    folder = tmp_path / "images"
    if source != "missing":
        folder.mkdir()
        (folder / ("flat.png" if source == "no identities" else "readme.md")).write_text("hello")
    with pytest.raises(DataError, match=r"^source .*(no such folder|no images|path names no identity).*data\.source"):
        prepare_dataset(config_for())
    assert not [path for path in (tmp_path / "set").rglob("*") if path.is_file()]


def test_a_dataset_without_kept_images_gets_no_manifest(
    images: Path, config_for: ConfigFor, prepare_dataset: PrepareDataset
) -> None:
    config = config_for(filters=FilterConfig(min_side=100))
    with pytest.raises(DataError, match=r"every image was rejected \(too small 48\)"):
        prepare_dataset(config)
    assert not (Path(config.output) / "manifest.json").exists()


def test_statistics_cover_the_kept_images_only(
    images: Path, config_for: ConfigFor, prepare_dataset: PrepareDataset
) -> None:
    config = config_for(filters=FilterConfig(scores=("blur",)))
    prepare_dataset(config)
    statistics = json.loads((Path(config.output) / "statistics.json").read_text())
    assert statistics["height"] == {"mean": 20, "std": 0, "min": 20, "max": 20}
    assert statistics["blur"]["min"] > 0


def test_progress_ends_with_all_shards_finished(images: Path, config_for: ConfigFor) -> None:
    calls: list[tuple[int, int]] = []
    manifest = prepare(config_for(), LocalExecutor(workers=1), lambda done, total: calls.append((done, total)))
    shards = sum(len(split_shards) for split_shards in manifest.splits.values())
    assert calls[-1] == (shards, shards)


def test_the_returned_manifest_equals_the_one_on_disk(
    images: Path, config_for: ConfigFor, prepare_dataset: PrepareDataset
) -> None:
    config = config_for()
    manifest = prepare_dataset(config)
    assert Manifest.load(config.output) == manifest
    assert (manifest.config_digest, manifest.domain) == (config.digest, "cat")


def test_a_dataset_can_be_written_to_a_url(
    images: Path, config_for: ConfigFor, prepare_dataset: PrepareDataset, tmp_path: Path
) -> None:
    here = prepare_dataset(config_for())
    there = prepare_dataset(config_for(output=f"memory://{tmp_path.name}/set"))
    assert there == here
    assert list(verify_shards(f"memory://{tmp_path.name}/set")) == []
    assert not Store(f"memory://{tmp_path.name}/set").exists(".e4t-prepare")


def test_an_output_that_is_a_file_is_reported_in_one_line(
    images: Path, config_for: ConfigFor, prepare_dataset: PrepareDataset
) -> None:
    config = config_for()
    Path(config.output).write_text("a file where the folder should be")
    with pytest.raises(DataError, match=r"output .* cannot be written \(.*\); free space"):
        prepare_dataset(config)


FULL_DISK = """
import resource, sys
from data_prep.config import PrepareConfig
from data_prep.errors import DataError
from data_prep.prepare.executors import LocalExecutor
from data_prep.prepare.pipeline import prepare

resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    prepare(PrepareConfig(source=sys.argv[1], output=sys.argv[2], domain="cat", resolution=64, format="png"),
            LocalExecutor(workers=1))
except DataError as error:
    print(error)
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="this system has no limit on the size of files")
def test_a_full_disk_is_reported_in_one_line_and_leaves_no_partial_shard(images: Path, tmp_path: Path) -> None:
    output = tmp_path / "set"
    output_text = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-c", FULL_DISK, str(images), str(output)], capture_output=True, text=True, check=True
    ).stdout
    assert output_text.startswith(f"output {output} cannot be written (File too large); free space")
    assert output_text.count("\n") == 1
    assert not list(output.rglob("*.tar"))


def test_a_read_only_output_is_reported_in_one_line(
    images: Path,
    config_for: ConfigFor,
    prepare_dataset: PrepareDataset,
    ordinary_user: Callable[[], AbstractContextManager[None]],
) -> None:
    # The first call imports modules that the unprivileged user may not be able to read.
    prepare_dataset(config_for(output=images.parent / "before"))
    refused = pytest.raises(DataError, match=r"cannot be written \(Permission denied\)")
    with tempfile.TemporaryDirectory() as folder, ordinary_user(), refused:
        prepare_dataset(config_for(output=Path(folder) / "set"))
