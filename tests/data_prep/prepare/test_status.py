from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.config import PrepareConfig
from data_prep.errors import DataError
from data_prep.prepare.status import status
from data_prep.prepare.worker import run_worker
from data_prep.shards.manifest import Manifest

ConfigFor = Callable[..., PrepareConfig]


def test_a_set_that_is_being_made_tells_what_is_done_and_what_is_left(pictures: Path, config_for: ConfigFor) -> None:
    (pictures / "cat00" / "9.png").write_text("no picture")
    config = config_for()
    run_worker(config, 0, 2)
    now = status(config)
    assert (now.num_images, now.finished) == (49, False)
    assert now.shards_done == (now.num_shards + 1) // 2
    assert 0 < now.processed < 49
    assert now.rate is not None
    assert now.rate > 0


def test_a_finished_set_tells_what_was_kept_out(
    pictures: Path, config_for: ConfigFor, made: Callable[[PrepareConfig], Manifest]
) -> None:
    (pictures / "cat00" / "9.png").write_text("no picture")
    config = config_for()
    made(config)
    now = status(config)
    assert (now.finished, now.processed, now.reject_counts) == (True, 49, {"not an image": 1})


def test_a_folder_where_nothing_was_begun_is_said_to_be_one(tmp_path: Path, config_for: ConfigFor) -> None:
    with pytest.raises(DataError, match="no run has started there; run `e4t prepare`"):
        status(config_for())
