from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.config import PrepareConfig, SplitFractions
from data_prep.errors import DataError
from data_prep.prepare.pipeline import merge_dataset
from data_prep.prepare.worker import run_worker
from data_prep.shards.manifest import Manifest
from data_prep.shards.reader import ShardReader
from data_prep.shards.verify import verify_shards

ConfigFor = Callable[..., PrepareConfig]
PrepareDataset = Callable[[PrepareConfig], Manifest]
ReadFiles = Callable[[Path], dict[str, bytes]]


@pytest.fixture
def config(images: Path, config_for: ConfigFor) -> PrepareConfig:
    """Configuration of a dataset in which cat04 holds a copy of cat03's first image."""
    (images / "cat04" / "copy.png").write_bytes((images / "cat03" / "0.png").read_bytes())
    return config_for(splits=SplitFractions(train=1, val=0, test=0))


def keys(config: PrepareConfig) -> list[str]:
    return [sample.key for sample in ShardReader(config.output, "train")]


def test_the_first_of_several_duplicates_is_kept(config: PrepareConfig, prepare_dataset: PrepareDataset) -> None:
    prepare_dataset(config)
    assert "cat03__0" in keys(config)
    assert "cat04__copy" not in keys(config)


def test_a_duplicate_in_another_split_is_left_out(
    images: Path, config_for: ConfigFor, prepare_dataset: PrepareDataset
) -> None:
    before = prepare_dataset(config_for(output=images.parent / "before"))
    first = next(iter(ShardReader(images.parent / "before", "train")))
    held_out = next(iter(ShardReader(images.parent / "before", "test")))
    (images / held_out.identity / "leak.png").write_bytes((images / f"{first.key.replace('__', '/')}.png").read_bytes())
    after = prepare_dataset(config_for())
    assert after.reject_counts == {"exact duplicate": 1}
    assert after.splits["train"] == before.splits["train"]


def test_a_duplicate_is_restored_when_its_original_is_removed(
    config: PrepareConfig, prepare_dataset: PrepareDataset, images: Path
) -> None:
    prepare_dataset(config)
    (images / "cat03" / "0.png").unlink()
    prepare_dataset(config)
    assert "cat04__copy" in keys(config)
    assert list(verify_shards(config.output)) == []


def test_dropping_a_duplicate_gives_the_same_shard_as_never_having_it(
    config: PrepareConfig, prepare_dataset: PrepareDataset, images: Path, config_for: ConfigFor
) -> None:
    with_copy = prepare_dataset(config).splits["train"]
    (images / "cat04" / "copy.png").write_text("not an image")
    without = prepare_dataset(config_for(output=images.parent / "other", splits=config.splits)).splits["train"]
    assert [shard.sha256 for shard in with_copy] == [shard.sha256 for shard in without]


def test_workers_of_another_world_size_continue_the_work(
    config: PrepareConfig, prepare_dataset: PrepareDataset, read_files: ReadFiles, config_for: ConfigFor, tmp_path: Path
) -> None:
    prepare_dataset(config)
    ranked = config_for(output=tmp_path / "ranked", splits=config.splits)
    run_worker(ranked, 1, 3)
    for rank in range(2):
        run_worker(ranked, rank, 2)
    merge_dataset(ranked)
    assert read_files(Path(ranked.output)) == read_files(Path(config.output))


def test_merging_too_early_reports_the_number_of_missing_shards(config: PrepareConfig) -> None:
    run_worker(config, 0, 2)
    with pytest.raises(DataError, match=r"5 of 10 shards are missing \(train-000001, \.\.\.\); run all workers"):
        merge_dataset(config)
    assert not (Path(config.output) / "manifest.json").exists()


def test_merging_without_a_plan_says_what_to_run_first(config: PrepareConfig) -> None:
    with pytest.raises(DataError, match="no plan of this configuration; run all workers first"):
        merge_dataset(config)
