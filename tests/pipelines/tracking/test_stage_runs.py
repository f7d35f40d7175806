"""Stages as runs of MLflow that are found again, and told later when nobody listens."""

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
from pipelines.tracking.stage_runs import DATASETS_DIR, STAGE_TAG, log_dataset, open_tracker, stage_run, stage_run_id
from pipelines.tracking.tracker import has_unsent_after_end, read_run_id
from tests.pipelines.made_run import recipe_in
from tests.pipelines.mlflow_server import free_port

_NUMBERS = itertools.count()


@pytest.fixture(autouse=True)
def _own_tracker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Laying out a database takes seconds, so one serves all tests."""
    return tmp_path_factory.mktemp("stages")


@pytest.fixture
def recipe(house: Path) -> Recipe:
    return replace(recipe_in(house), name=f"faces-{next(_NUMBERS)}")


@pytest.fixture
def manifest() -> Manifest:
    """Of a set that no other test has."""
    return Manifest(
        domain="person", resolution=64, format="png", config_digest=f"c{next(_NUMBERS)}", identities={"train": 12},
        kept=24, reject_counts={"not an image": 2}, splits={"train": []},
    )  # fmt: skip


def away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody answer, and nobody wait for that."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr(tracking, "PATIENCE", 0.0)


def back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.setattr(tracking, "PATIENCE", 60.0)


def test_a_stage_is_a_run_with_its_recipe_environment_and_code(recipe: Recipe) -> None:
    with stage_run(recipe, "evaluate", "evaluate-0123") as tracker:
        tracker.log_metrics(0, {"likeness": 0.5})
    client, found = connect(recipe.runs), stage_run_id(recipe, "evaluate-0123")
    assert found
    run = client.get_run(found)
    assert (run.info.run_name, run.info.status) == (f"evaluate-0123 {recipe.name}", "FINISHED")
    assert run.data.tags[STAGE_TAG] == "evaluate"
    assert run.data.tags["mlflow.source.git.commit"] == code_revision()
    assert run.data.params["conditioning.domain_word"] == "person"
    folder = Path(client.download_artifacts(found, "", str(Path(recipe.runs) / f"back-{recipe.name}")))
    assert yaml.safe_load((folder / "recipe.yaml").read_text()) == recipe.to_dict()
    assert json.loads((folder / "environment.json").read_text())["code"] == code_revision()


def test_a_stage_that_fails_is_a_failed_run_and_the_next_try_the_same_run(recipe: Recipe) -> None:
    with pytest.raises(ZeroDivisionError), stage_run(recipe, "evaluate"):
        raise ZeroDivisionError
    client, first = connect(recipe.runs), stage_run_id(recipe, "evaluate")
    assert first
    assert client.get_run(first).info.status == "FAILED"
    with stage_run(recipe, "evaluate"):
        pass
    assert stage_run_id(recipe, "evaluate") == first
    assert client.get_run(first).info.status == "FINISHED"


def test_a_stage_that_nobody_was_told_of_has_no_run(recipe: Recipe) -> None:
    assert stage_run_id(recipe, "evaluate") is None


def test_what_was_recorded_while_the_server_was_away_is_sent_by_the_next_stage(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    away(monkeypatch)
    with stage_run(recipe, "evaluate") as tracker:
        tracker.log_metrics(15, {"likeness": 0.5})
    assert stage_run_id(recipe, "evaluate") is None
    tracker._thread.join()
    back(monkeypatch)
    with stage_run(recipe, "release"):
        pass
    client, late = connect(recipe.runs), stage_run_id(recipe, "evaluate")
    assert late
    assert client.get_run(late).info.run_name == f"evaluate {recipe.name}"
    assert client.get_run(late).info.status == "FINISHED"
    assert [(m.step, m.value) for m in client.get_metric_history(late, "likeness")] == [(15, 0.5)]


def test_a_stage_that_is_still_at_it_is_left_alone(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    away(monkeypatch)
    training = open_tracker(recipe, "pretrain")
    assert not has_unsent_after_end(recipe.folder / "tracking" / "pretrain")
    back(monkeypatch)
    with stage_run(recipe, "evaluate"):
        pass
    training.close("FINISHED")
    assert training.num_pending() == 0
    run = connect(recipe.runs).get_run(training.run_id)
    assert (run.info.run_name, run.info.status) == (f"pretrain {recipe.name}", "FINISHED")


def test_a_set_is_a_run_with_its_counts_and_its_manifest_once(recipe: Recipe, manifest: Manifest) -> None:
    runs, client = Path(recipe.runs), connect(recipe.runs)
    log_dataset(recipe.data, manifest, runs)
    found = read_run_id(runs / DATASETS_DIR / manifest.digest[:12])
    assert found
    log_dataset(recipe.data, manifest, runs)
    assert read_run_id(runs / DATASETS_DIR / manifest.digest[:12]) == found
    run = client.get_run(found)
    assert (run.info.run_name, run.info.status) == ("prepare person", "FINISHED")
    assert run.data.metrics == {"kept": 24, "rejected/not an image": 2}
    assert run.data.tags["e4t.data_manifest"] == manifest.digest
    assert "manifest.json" in {file.path for file in client.list_artifacts(found)}


def test_a_set_that_was_prepared_while_the_server_was_away_is_sent_by_the_next_stage(
    recipe: Recipe, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = Path(recipe.runs)
    away(monkeypatch)
    log_dataset(recipe.data, manifest, runs)
    folder = runs / DATASETS_DIR / manifest.digest[:12]
    assert has_unsent_after_end(folder)
    back(monkeypatch)
    with stage_run(recipe, "pretrain"):
        pass
    found = read_run_id(folder)
    assert found
    assert connect(runs).get_run(found).info.status == "FINISHED"
    assert connect(runs).get_run(found).data.metrics["kept"] == 24


def test_a_set_that_was_sent_by_half_is_sent_whole_by_preparing_again(
    recipe: Recipe, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = Path(recipe.runs)
    away(monkeypatch)
    log_dataset(recipe.data, manifest, runs)
    back(monkeypatch)
    begun = connect(runs).create_run(get_or_create_experiment(connect(runs), runs), run_name="prepare person")
    (runs / DATASETS_DIR / manifest.digest[:12] / "run_id").write_text(begun.info.run_id)
    log_dataset(recipe.data, manifest, runs)
    assert not has_unsent_after_end(runs / DATASETS_DIR / manifest.digest[:12])
    assert connect(runs).get_run(begun.info.run_id).info.status == "FINISHED"
