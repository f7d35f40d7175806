import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.config import PrepareConfig
from data_prep.errors import DataError
from data_prep.prepare.executors import Executor, LocalExecutor, RayExecutor
from data_prep.prepare.pipeline import prepare
from data_prep.prepare.worker import run_worker
from data_prep.shards.manifest import Manifest
from e4t_errors import ConfigError

ConfigFor = Callable[..., PrepareConfig]
ReadFiles = Callable[[Path], dict[str, bytes]]

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed (extra ray)")


@pytest.mark.parametrize("executor", [LocalExecutor(workers=3), pytest.param(RayExecutor(workers=2), marks=needs_ray)])
def test_every_executor_writes_the_same_files(
    images: Path,
    config_for: ConfigFor,
    prepare_dataset: Callable[[PrepareConfig], Manifest],
    read_files: ReadFiles,
    tmp_path: Path,
    executor: Executor,
) -> None:
    prepare_dataset(config_for(output=tmp_path / "here"))
    prepare(config_for(output=tmp_path / "there"), executor)
    assert read_files(tmp_path / "there") == read_files(tmp_path / "here")


@pytest.mark.parametrize("executor", [LocalExecutor(workers=2), pytest.param(RayExecutor(workers=2), marks=needs_ray)])
def test_an_error_in_a_worker_is_raised_unchanged(images: Path, config_for: ConfigFor, executor: Executor) -> None:
    config = config_for()
    (Path(config.output) / ".e4t-prepare").mkdir(parents=True)
    (Path(config.output) / ".e4t-prepare" / "drafts").write_text("a file where a folder should be")
    with pytest.raises(DataError, match=r"output .* cannot be written"):
        prepare(config, executor)


def test_a_rank_outside_the_world_size_is_refused(config_for: ConfigFor) -> None:
    with pytest.raises(ConfigError, match="rank 2 is not valid for 2 workers; give 0 to 1"):
        run_worker(config_for(), 2, 2)
