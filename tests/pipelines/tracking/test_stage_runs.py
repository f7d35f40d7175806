"""Stages are runs of MLflow; what cannot be sent while MLflow is unreachable is sent later."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from data_prep.shards.manifest import Manifest
from pipelines.config.recipe import Recipe
from pipelines.tracking import tracker as tracking
from pipelines.tracking.client import connect, get_or_create_experiment
from pipelines.tracking.environment import code_revision
from pipelines.tracking.stage_runs import (
    DATASETS_DIR,
    STAGE_TAG,
    TRACKING_DIR,
    end_stage_run,
    log_dataset,
    open_tracker,
    stage_run,
    stage_run_id,
)
from pipelines.tracking.tracker import has_unsent_after_end, read_run_id
from tests.pipelines.made_run import recipe_in
from tests.pipelines.mlflow_server import free_port

_NUMBERS = itertools.count()


@pytest.fixture(autouse=True)
def _own_tracker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Share one database among all tests, because creating one takes seconds."""
    return tmp_path_factory.mktemp("stages")


@pytest.fixture
def recipe(shared_folder: Path) -> Recipe:
    return replace(recipe_in(shared_folder), name=f"faces-{next(_NUMBERS)}")


@pytest.fixture
def manifest() -> Manifest:
    """Return the manifest of a dataset that no other test uses."""
    return Manifest(
        domain="person", resolution=64, format="png", config_digest=f"c{next(_NUMBERS)}", identities={"train": 12},
        kept=24, reject_counts={"not an image": 2}, splits={"train": []},
    )  # fmt: skip


def make_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make MLflow unreachable, and let trackers not wait for it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr(tracking, "CLOSE_TIMEOUT", 0.0)


def make_reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.setattr(tracking, "CLOSE_TIMEOUT", 60.0)


def test_a_stage_is_a_run_with_its_recipe_environment_and_code(recipe: Recipe) -> None:
    with stage_run(recipe, "evaluate", "evaluate-0123") as tracker:
        tracker.log_metrics(0, {"identity_similarity": 0.5})
    client, run_id = connect(recipe.runs), stage_run_id(recipe, "evaluate-0123")
    assert run_id
    run = client.get_run(run_id)
    assert (run.info.run_name, run.info.status) == (f"evaluate-0123 {recipe.name}", "FINISHED")
    assert run.data.tags[STAGE_TAG] == "evaluate"
    assert run.data.tags["mlflow.source.git.commit"] == code_revision()
    assert run.data.params["conditioning.domain_word"] == "person"
    folder = Path(client.download_artifacts(run_id, "", str(Path(recipe.runs) / f"back-{recipe.name}")))
    assert yaml.safe_load((folder / "recipe.yaml").read_text()) == recipe.to_dict()
    assert json.loads((folder / "environment.json").read_text())["code"] == code_revision()


def test_a_failed_stage_is_a_failed_run_which_the_next_attempt_continues(recipe: Recipe) -> None:
    with pytest.raises(ZeroDivisionError), stage_run(recipe, "evaluate"):
        raise ZeroDivisionError
    client, first = connect(recipe.runs), stage_run_id(recipe, "evaluate")
    assert first
    assert client.get_run(first).info.status == "FAILED"
    with stage_run(recipe, "evaluate"):
        pass
    assert stage_run_id(recipe, "evaluate") == first
    assert client.get_run(first).info.status == "FINISHED"


def test_a_stage_that_never_ran_has_no_run(recipe: Recipe) -> None:
    assert stage_run_id(recipe, "evaluate") is None


def test_entries_queued_while_mlflow_was_unreachable_are_sent_by_the_next_stage(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_unreachable(monkeypatch)
    with stage_run(recipe, "evaluate") as tracker:
        tracker.log_metrics(15, {"identity_similarity": 0.5})
    assert stage_run_id(recipe, "evaluate") is None
    tracker._thread.join()
    make_reachable(monkeypatch)
    with stage_run(recipe, "release"):
        pass
    client, run_id = connect(recipe.runs), stage_run_id(recipe, "evaluate")
    assert run_id
    assert client.get_run(run_id).info.run_name == f"evaluate {recipe.name}"
    assert client.get_run(run_id).info.status == "FINISHED"
    assert [(m.step, m.value) for m in client.get_metric_history(run_id, "identity_similarity")] == [(15, 0.5)]


def test_the_queue_of_a_running_stage_is_not_touched(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    make_unreachable(monkeypatch)
    training = open_tracker(recipe, "pretrain")
    assert not has_unsent_after_end(recipe.folder / "tracking" / "pretrain")
    make_reachable(monkeypatch)
    with stage_run(recipe, "evaluate"):
        pass
    training.close("FINISHED")
    assert training.num_pending() == 0
    run = connect(recipe.runs).get_run(training.run_id)
    assert (run.info.run_name, run.info.status) == (f"pretrain {recipe.name}", "FINISHED")


def test_a_dataset_is_one_run_with_its_counts_and_its_manifest(recipe: Recipe, manifest: Manifest) -> None:
    runs, client = Path(recipe.runs), connect(recipe.runs)
    log_dataset(recipe.data, manifest, runs)
    run_id = read_run_id(runs / DATASETS_DIR / manifest.digest[:12])
    assert run_id
    log_dataset(recipe.data, manifest, runs)
    assert read_run_id(runs / DATASETS_DIR / manifest.digest[:12]) == run_id
    run = client.get_run(run_id)
    assert (run.info.run_name, run.info.status) == ("prepare person", "FINISHED")
    assert run.data.metrics == {"kept": 24, "rejected/not an image": 2}
    assert run.data.tags["e4t.data_manifest"] == manifest.digest
    assert "manifest.json" in {file.path for file in client.list_artifacts(run_id)}


def test_a_dataset_prepared_while_mlflow_was_unreachable_is_sent_by_the_next_stage(
    recipe: Recipe, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = Path(recipe.runs)
    make_unreachable(monkeypatch)
    log_dataset(recipe.data, manifest, runs)
    folder = runs / DATASETS_DIR / manifest.digest[:12]
    assert has_unsent_after_end(folder)
    make_reachable(monkeypatch)
    with stage_run(recipe, "pretrain"):
        pass
    run_id = read_run_id(folder)
    assert run_id
    assert connect(runs).get_run(run_id).info.status == "FINISHED"
    assert connect(runs).get_run(run_id).data.metrics["kept"] == 24


def test_a_dataset_that_was_sent_in_part_is_completed_by_preparing_again(
    recipe: Recipe, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = Path(recipe.runs)
    make_unreachable(monkeypatch)
    log_dataset(recipe.data, manifest, runs)
    make_reachable(monkeypatch)
    begun = connect(runs).create_run(get_or_create_experiment(connect(runs), runs), run_name="prepare person")
    (runs / DATASETS_DIR / manifest.digest[:12] / "run_id").write_text(begun.info.run_id)
    log_dataset(recipe.data, manifest, runs)
    assert not has_unsent_after_end(runs / DATASETS_DIR / manifest.digest[:12])
    assert connect(runs).get_run(begun.info.run_id).info.status == "FINISHED"


def test_ending_a_stage_that_was_killed_sets_its_status_and_sends_its_queue(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_unreachable(monkeypatch)
    killed = open_tracker(recipe, "pretrain")
    killed.log_metrics(1, {"loss": 0.5})
    killed.close(None)
    killed._thread.join()
    make_reachable(monkeypatch)
    end_stage_run(recipe, "pretrain", "FINISHED")
    client, run_id = connect(recipe.runs), stage_run_id(recipe, "pretrain")
    assert run_id
    assert client.get_run(run_id).info.status == "FINISHED"
    assert [metric.step for metric in client.get_metric_history(run_id, "loss")] == [1]


def test_ending_a_stage_that_has_ended_changes_nothing(recipe: Recipe) -> None:
    open_tracker(recipe, "pretrain").close("FAILED")
    entries = (recipe.folder / TRACKING_DIR / "pretrain" / "entries.jsonl").read_bytes()
    end_stage_run(recipe, "pretrain", "FINISHED")
    assert (recipe.folder / TRACKING_DIR / "pretrain" / "entries.jsonl").read_bytes() == entries


def test_ending_a_stage_that_was_never_tracked_leaves_no_file(recipe: Recipe) -> None:
    end_stage_run(recipe, "pretrain", "FINISHED")
    assert not recipe.folder.exists()
