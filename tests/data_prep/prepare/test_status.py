from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.config import PrepareConfig
from data_prep.errors import DataError
from data_prep.prepare.status import status
from data_prep.prepare.worker import run_worker
from data_prep.shards.manifest import Manifest

ConfigFor = Callable[..., PrepareConfig]


def test_status_of_an_unfinished_dataset_reports_done_and_planned_work(images: Path, config_for: ConfigFor) -> None:
    (images / "cat00" / "9.png").write_text("not an image")
    config = config_for()
    run_worker(config, 0, 2)
    now = status(config)
    assert (now.num_images, now.finished) == (49, False)
    assert now.shards_done == (now.num_shards + 1) // 2
    assert 0 < now.processed < 49
    assert now.rate is not None
    assert now.rate > 0


def test_status_of_a_finished_dataset_reports_the_rejects(
    images: Path, config_for: ConfigFor, prepare_dataset: Callable[[PrepareConfig], Manifest]
) -> None:
    (images / "cat00" / "9.png").write_text("not an image")
    config = config_for()
    prepare_dataset(config)
    now = status(config)
    assert (now.finished, now.processed, now.reject_counts) == (True, 49, {"not an image": 1})


def test_status_of_an_empty_folder_says_that_no_run_has_started(tmp_path: Path, config_for: ConfigFor) -> None:
    with pytest.raises(DataError, match="no run has started there; run `e4t prepare`"):
        status(config_for())
