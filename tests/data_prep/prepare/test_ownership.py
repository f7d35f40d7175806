"""The output of ``e4t prepare`` never replaces or deletes a file of anyone else."""

import os
import pickle
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.config import PrepareConfig, SourceConfig
from data_prep.errors import DataError
from data_prep.prepare.ownership import output_lock
from data_prep.prepare.pipeline import merge_dataset, plan_dataset, work_on_dataset
from data_prep.prepare.preview import preview
from data_prep.shards.manifest import Manifest
from data_prep.storage.store import Store
from e4t_errors import ConfigError

ConfigFor = Callable[..., PrepareConfig]
PrepareDataset = Callable[[PrepareConfig], Manifest]
ReadFiles = Callable[[Path], dict[str, bytes]]


def snapshot(root: Path) -> dict[str, bytes]:
    """Read all files below a folder."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def write(path: Path, text: str = "mine") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_folder_that_holds_the_source_and_other_files_keeps_them(
    images: Path, config_for: ConfigFor, prepare_dataset: PrepareDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = images.parent
    for name in ("work/thesis.txt", "work/plan/plan.json", "work/drafts/train-000000.tar", "notes.json"):
        write(project / name)
    before = snapshot(project)
    monkeypatch.chdir(project)
    prepare_dataset(config_for(source=Path("images"), output=Path()))
    after = snapshot(project)
    assert {name: after.get(name) for name in before} == before
    assert Manifest.load(project).kept == 48


def test_a_failed_command_keeps_other_files(
    config_for: ConfigFor, prepare_dataset: PrepareDataset, tmp_path: Path
) -> None:
    write(tmp_path / "set/work/thesis.txt")
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match="no images"):
        prepare_dataset(config_for())
    assert snapshot(tmp_path) == {"set/work/thesis.txt": b"mine"}


@pytest.mark.parametrize(
    ("source", "output"),
    [
        pytest.param("images", "images", id="the source itself"),
        pytest.param("images", "images/", id="the source with a slash"),
        pytest.param("images", "images/shards", id="a folder in the source"),
        pytest.param("images", "link/shards", id="a folder in the source, by a link"),
        pytest.param("images", "images/../images/cat00/x", id="a folder deep in the source"),
    ],
)
def test_an_output_in_the_source_is_refused(
    images: Path,
    config_for: ConfigFor,
    prepare_dataset: PrepareDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    output: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("images")
    before = snapshot(tmp_path)
    with pytest.raises(ConfigError, match=r"lies inside data.source|lies where the dataset"):
        prepare_dataset(config_for(source=source, output=output))
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    "source", ["train/train-{000000..000002}.tar", "train", "train/*.tar", "train/train-000001.tar", "../wds/train"]
)
@pytest.mark.parametrize("action", ["prepare", "plan", "work", "merge", "dry run"])
def test_a_source_where_shards_would_be_written_is_refused(
    config_for: ConfigFor, prepare_dataset: PrepareDataset, tmp_path: Path, source: str, action: str
) -> None:
    for number in range(3):
        write(tmp_path / f"wds/train/train-{number:06d}.tar")
    before = snapshot(tmp_path)
    config = config_for(source=f"{tmp_path}/wds/{source}", output=tmp_path / "wds")
    run = {
        "prepare": lambda: prepare_dataset(config),
        "plan": lambda: plan_dataset(config),
        "work": lambda: work_on_dataset(config, 0, 1),
        "merge": lambda: merge_dataset(config),
        "dry run": lambda: preview(config),
    }[action]
    with pytest.raises(ConfigError, match=r"lies where the dataset in data.output .* would be replaced"):
        run()
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("setting", ["identities", "attributes"])
def test_a_side_table_under_a_name_of_the_dataset_is_refused(
    images: Path, config_for: ConfigFor, prepare_dataset: PrepareDataset, tmp_path: Path, setting: str
) -> None:
    write(tmp_path / "set/rejects.jsonl", "cat00/0.png one\n")
    options = SourceConfig(**{setting: str(tmp_path / "set/rejects.jsonl")})
    with pytest.raises(ConfigError, match=rf"data.source_options.{setting} .* lies where the dataset"):
        prepare_dataset(config_for(source_options=options))


@pytest.mark.parametrize(
    "names",
    [
        ["manifest.json"],
        ["train/train-000000.tar"],
        ["manifest.json", "train/train-000000.tar"],
        ["val/cat/0.png"],
        ["test"],
        ["rejects.jsonl"],
        ["statistics.json"],
        ["dataset_config.json"],
    ],
)
def test_foreign_files_under_the_names_of_a_dataset_are_refused(
    images: Path, config_for: ConfigFor, prepare_dataset: PrepareDataset, tmp_path: Path, names: list[str]
) -> None:
    for name in names:
        write(tmp_path / "set" / name, "{}")
    before = snapshot(tmp_path)
    with pytest.raises(ConfigError, match=rf"holds files that `e4t prepare` did not write.*{names[-1].split('/')[0]}"):
        prepare_dataset(config_for())
    assert snapshot(tmp_path) == before


def test_foreign_files_under_other_names_and_empty_folders_are_left_alone(
    images: Path, config_for: ConfigFor, prepare_dataset: PrepareDataset, tmp_path: Path
) -> None:
    write(tmp_path / "set/README.md")
    write(tmp_path / "set/notes.0123abcd.partial")
    (tmp_path / "set/train").mkdir()
    prepare_dataset(config_for())
    files = snapshot(tmp_path / "set")
    assert files["README.md"] == files["notes.0123abcd.partial"] == b"mine"


def test_a_shard_that_somebody_added_to_a_dataset_is_refused(
    images: Path, config_for: ConfigFor, prepare_dataset: PrepareDataset, tmp_path: Path
) -> None:
    config = config_for()
    prepare_dataset(config)
    write(tmp_path / "set/train/notes.txt")
    prepare_dataset(config)
    added = tmp_path / "set/train/train-000099.tar"
    with tarfile.open(added, "w") as tar:
        tar.add(images / "cat00/0.png", "0.png")
    before = snapshot(tmp_path)
    with pytest.raises(ConfigError, match=r"did not write.*train/train-000099.tar"):
        prepare_dataset(config)
    assert snapshot(tmp_path) == before


def test_shards_of_removed_images_are_deleted(
    images: Path, config_for: ConfigFor, prepare_dataset: PrepareDataset, tmp_path: Path
) -> None:
    config = config_for()
    prepare_dataset(config)
    shards = set((tmp_path / "set/train").iterdir())
    for identity in range(6):
        shutil.rmtree(images / f"cat{identity:02d}")
    prepare_dataset(config)
    assert set((tmp_path / "set/train").iterdir()) < shards


def test_a_dataset_whose_merge_was_killed_is_finished(
    images: Path, config_for: ConfigFor, prepare_dataset: PrepareDataset, read_files: ReadFiles, tmp_path: Path
) -> None:
    whole = config_for(output=tmp_path / "whole")
    prepare_dataset(whole)
    config = config_for()
    program = (
        "import os, pickle, sys\n"
        "from data_prep.prepare import merge, pipeline\n"
        "from data_prep.prepare.executors import LocalExecutor\n"
        "save, count = merge.ShardIndex.save, [0]\n"
        "def stop(self, store, tar):\n"
        "    count[0] += not tar.startswith('.')\n"
        "    os._exit(9) if count[0] == 3 else save(self, store, tar)\n"
        "merge.ShardIndex.save = stop\n"
        "pipeline.prepare(pickle.load(sys.stdin.buffer), LocalExecutor(workers=1))\n"
    )
    killed = subprocess.run([sys.executable, "-c", program], input=pickle.dumps(config), check=False)  # noqa: S603
    assert killed.returncode == 9
    prepare_dataset(config)
    assert read_files(tmp_path / "set") == read_files(tmp_path / "whole")


def test_two_jobs_at_once_are_told_from_a_full_disk(
    images: Path, config_for: ConfigFor, prepare_dataset: PrepareDataset
) -> None:
    config = config_for()
    with output_lock(Store(config.output), exclusive=False):
        work_on_dataset(config, 0, 1)  # workers share the output
        for run in (lambda: prepare_dataset(config), lambda: merge_dataset(config)):
            with pytest.raises(DataError, match=r"another `e4t prepare` is working there; wait"):
                run()
    assert prepare_dataset(config).kept == 48


def test_a_lock_leaves_no_folder_behind(tmp_path: Path) -> None:
    with output_lock(Store(str(tmp_path / "set")), exclusive=True):
        assert os.listdir(tmp_path) == ["set"]  # noqa: PTH208
    assert not (tmp_path / "set").exists()
