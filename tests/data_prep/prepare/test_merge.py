from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.config import PrepareConfig, SplitFractions
from data_prep.errors import DataError
from data_prep.prepare.pipeline import merge_dataset
from data_prep.prepare.worker import run_worker
from data_prep.shards.manifest import Manifest, verify_shards
from data_prep.shards.reader import ShardReader

ConfigFor = Callable[..., PrepareConfig]
Made = Callable[[PrepareConfig], Manifest]
Contents = Callable[[Path], dict[str, bytes]]


@pytest.fixture
def config(pictures: Path, config_for: ConfigFor) -> PrepareConfig:
    """Of a set where cat04 holds a copy of cat03's first picture."""
    (pictures / "cat04" / "copy.png").write_bytes((pictures / "cat03" / "0.png").read_bytes())
    return config_for(splits=SplitFractions(train=1, val=0, test=0))


def keys(config: PrepareConfig) -> list[str]:
    return [sample.key for sample in ShardReader(config.output, "train")]


def test_of_copies_the_first_is_kept(config: PrepareConfig, made: Made) -> None:
    made(config)
    assert "cat03__0" in keys(config)
    assert "cat04__copy" not in keys(config)


def test_a_copy_in_another_split_than_its_original_is_left_out(
    pictures: Path, config_for: ConfigFor, made: Made
) -> None:
    before = made(config_for(output=pictures.parent / "before"))
    first = next(iter(ShardReader(pictures.parent / "before", "train")))
    held_out = next(iter(ShardReader(pictures.parent / "before", "test")))
    (pictures / held_out.identity / "leak.png").write_bytes(
        (pictures / f"{first.key.replace('__', '/')}.png").read_bytes()
    )
    after = made(config_for())
    assert after.reject_counts == {"exact duplicate": 1}
    assert after.splits["train"] == before.splits["train"]


def test_a_copy_comes_back_when_its_original_is_gone(config: PrepareConfig, made: Made, pictures: Path) -> None:
    made(config)
    (pictures / "cat03" / "0.png").unlink()
    made(config)
    assert "cat04__copy" in keys(config)
    assert list(verify_shards(config.output)) == []


def test_leaving_out_a_copy_makes_the_shard_that_would_be_without_it(
    config: PrepareConfig, made: Made, pictures: Path, config_for: ConfigFor
) -> None:
    with_copy = made(config).splits["train"]
    (pictures / "cat04" / "copy.png").write_text("no picture")
    without = made(config_for(output=pictures.parent / "other", splits=config.splits)).splits["train"]
    assert [shard.sha256 for shard in with_copy] == [shard.sha256 for shard in without]


def test_ranks_of_another_world_go_on_where_ranks_left_off(
    config: PrepareConfig, made: Made, contents: Contents, config_for: ConfigFor, tmp_path: Path
) -> None:
    made(config)
    ranked = config_for(output=tmp_path / "ranked", splits=config.splits)
    run_worker(ranked, 1, 3)
    for rank in range(2):
        run_worker(ranked, rank, 2)
    merge_dataset(ranked)
    assert contents(Path(ranked.output)) == contents(Path(config.output))


def test_a_merge_before_every_shard_is_made_says_how_many_are_missing(config: PrepareConfig) -> None:
    run_worker(config, 0, 2)
    with pytest.raises(DataError, match=r"5 of 10 shards are missing \(train-000001, \.\.\.\); run all workers"):
        merge_dataset(config)
    assert not (Path(config.output) / "manifest.json").exists()


def test_a_merge_of_nothing_says_what_to_run_first(config: PrepareConfig) -> None:
    with pytest.raises(DataError, match="no plan of this configuration; run all workers first"):
        merge_dataset(config)
