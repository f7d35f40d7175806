"""Images whose reads fail for now are neither lost nor taken for rejected: the next run reads exactly them again."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from data_prep.config import PrepareConfig, ReadConfig, SourceConfig, SplitFractions
from data_prep.errors import DataError
from data_prep.prepare.executors import LocalExecutor
from data_prep.prepare.pipeline import merge_dataset, prepare, work_on_dataset
from data_prep.prepare.shard_writer import RetryPolicy
from data_prep.prepare.status import status
from data_prep.shards.manifest import Manifest
from data_prep.shards.verify import verify_shards
from tests.data_prep.flaky_server import FlakyServer, flaky_server

ConfigFor = Callable[..., PrepareConfig]
PrepareDataset = Callable[[PrepareConfig], Manifest]
ReadFiles = Callable[[Path], dict[str, bytes]]
FAILING = ("cat00/1.png", "cat03/0.png", "cat03/1.png")


@pytest.fixture
def web(images: Path) -> Iterator[FlakyServer]:
    """Serve the images over HTTP; ``cat05/0.png`` is listed twice, and thus an exact duplicate."""
    with flaky_server(images) as running:
        yield running


@pytest.fixture
def config(web: FlakyServer, config_for: ConfigFor, tmp_path: Path) -> PrepareConfig:
    """List the images by URL, a few per shard."""
    names = sorted(path.relative_to(web.folder).as_posix() for path in web.folder.glob("*/[01].png"))
    rows = [f"{web.url}/{name},{name.partition('/')[0]}" for name in [*names, "cat05/0.png"]]
    (tmp_path / "list.csv").write_text("image,identity\n" + "\n".join(rows) + "\n")
    return config_for(
        source=tmp_path / "list.csv",
        source_options=SourceConfig(identity_column="identity"),
        read=ReadConfig(retries=0, backoff_seconds=0.0),
        splits=SplitFractions(train=1, val=0, test=0),
    )


def with_changes(config: PrepareConfig, **changes: object) -> PrepareConfig:
    return PrepareConfig(**{**vars(config), **changes})


def ledger(config: PrepareConfig) -> list[dict[str, str]]:
    return [json.loads(line) for line in (Path(config.output) / "rejects.jsonl").read_text().splitlines()]


def fail(web: FlakyServer, fault: str = "500") -> None:
    web.always = dict.fromkeys(FAILING, fault)


def recover(web: FlakyServer) -> None:
    web.always = {}
    web.requests.clear()


def test_a_run_with_failed_reads_ends_in_one_line_and_the_next_reads_exactly_these(
    web: FlakyServer, config: PrepareConfig, read_files: ReadFiles, prepare_dataset: PrepareDataset, tmp_path: Path
) -> None:
    undisturbed = with_changes(config, output=str(tmp_path / "undisturbed"))
    prepare_dataset(undisturbed)
    fail(web)
    with pytest.raises(DataError, match=r"is not finished: 3 of 25 images could not be read.*rerun to read exactly"):
        prepare_dataset(config)
    assert not (Path(config.output) / "manifest.json").exists()
    failed = [line for line in ledger(config) if line["status"] == "retryable"]
    assert sorted(line["source"].removeprefix(web.url + "/") for line in failed) == sorted(FAILING)
    assert all(line["cause"] for line in failed)
    assert sum(status(config).retryable_counts.values()) == 3
    recover(web)
    manifest = prepare_dataset(config)
    assert set(web.requests) == set(FAILING)
    assert (manifest.kept, manifest.retryable_counts, manifest.listed) == (24, {}, 25)
    assert read_files(Path(config.output)) == read_files(tmp_path / "undisturbed")
    assert list(verify_shards(config.output)) == []


def test_allowed_failures_finish_the_dataset_and_later_runs_still_try_them(
    web: FlakyServer, config: PrepareConfig, read_files: ReadFiles, prepare_dataset: PrepareDataset, tmp_path: Path
) -> None:
    undisturbed = with_changes(config, output=str(tmp_path / "undisturbed"))
    prepare_dataset(undisturbed)
    lenient = with_changes(config, read=ReadConfig(retries=0, max_failed_fraction=0.12))
    fail(web)
    manifest = prepare_dataset(lenient)
    assert manifest.kept == 21
    assert sum(manifest.retryable_counts.values()) == 3
    assert manifest.listed == 25
    strict = with_changes(config, read=ReadConfig(retries=0, max_failed_fraction=0.11))
    with pytest.raises(DataError, match="3 of 25"):
        prepare_dataset(strict)
    recover(web)
    prepare(lenient, LocalExecutor(workers=2))
    assert set(web.requests) - {"cat05/0.png"} == set(FAILING)
    assert read_files(Path(config.output)) == read_files(tmp_path / "undisturbed")


def test_separate_workers_read_failed_images_again(web: FlakyServer, config: PrepareConfig) -> None:
    fail(web)
    for rank in range(2):
        work_on_dataset(config, rank, 2)
    with pytest.raises(DataError, match="3 of 25"):
        merge_dataset(config)
    recover(web)
    for rank in range(2):
        work_on_dataset(config, rank, 2)
    assert set(web.requests) == set(FAILING)
    assert merge_dataset(config).kept == 24


def test_permanent_rejects_are_read_again_on_request_only(
    web: FlakyServer, config: PrepareConfig, prepare_dataset: PrepareDataset
) -> None:
    (web.folder / "cat00/1.png").rename(web.folder / "hidden")
    (web.folder / "cat00/1.png").write_text("not an image")
    assert prepare_dataset(config).reject_counts == {"exact duplicate": 1, "not an image": 1}
    (web.folder / "hidden").rename(web.folder / "cat00/1.png")
    recover(web)
    assert prepare_dataset(config).kept == 23
    assert not web.requests
    manifest = prepare(config, LocalExecutor(workers=1), retry=RetryPolicy(("not an",)))
    assert (manifest.kept, manifest.reject_counts) == (24, {"exact duplicate": 1})
    assert "cat00/1.png" in web.requests
