"""Tests of registering and promoting releases in a real MLflow registry."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from e4t_errors import ConfigError
from encoder.releases.release import Release
from pipelines.config.recipe import Recipe
from pipelines.errors import RunError
from pipelines.pretraining.checkpoints.state import TrainingState
from pipelines.registry.resolve import resolve_release
from pipelines.release.build import make_release
from pipelines.release.registration import promote, register
from pipelines.tracking.client import connect
from pipelines.tracking.stage_runs import stage_run, stage_run_id
from tests.pipelines.made_run import Trained, save
from tests.pipelines.mlflow_server import free_port

E4T = Callable[..., tuple[int, str, str]]


@pytest.fixture
def recipe(trained_recipe: Recipe) -> Recipe:
    return trained_recipe


@pytest.fixture
def client(recipe: Recipe) -> MlflowClient:
    return connect(recipe.runs)


def build_release(recipe: Recipe, folder: Path, version: str) -> Release:
    return make_release(recipe, folder / version, version, allow_dirty=True)


@pytest.fixture
def two(recipe: Recipe, tmp_path: Path) -> str:
    """Return the name of a model with versions 1 and 2, which are releases 1.0.0 and 1.1.0."""
    for version in ("1.0.0", "1.1.0"):
        register(recipe, build_release(recipe, tmp_path, version))
    return recipe.name


def test_a_registered_release_is_the_candidate_and_downloads_unchanged(
    recipe: Recipe, client: MlflowClient, tmp_path: Path
) -> None:
    releases = [build_release(recipe, tmp_path, version) for version in ("1.0.0", "1.1.0")]
    assert [register(recipe, release) for release in releases] == [1, 2]
    candidate = client.get_model_version_by_alias(recipe.name, "candidate")
    assert int(candidate.version) == 2
    assert candidate.tags["semantic_version"] == "1.1.0"
    assert candidate.tags["e4t.weights"] == releases[1].content_digest
    assert candidate.run_id == stage_run_id(recipe, "release-1.1.0")
    folder = resolve_release(f"models:/{recipe.name}@candidate", recipe.runs)
    files = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    assert len(files) == 7
    assert all((folder / name).read_bytes() == (releases[1].folder / name).read_bytes() for name in files)


def test_the_run_of_a_release_has_tags_for_stage_release_and_dataset(
    recipe: Recipe, client: MlflowClient, tmp_path: Path
) -> None:
    release = build_release(recipe, tmp_path, "1.0.0")
    register(recipe, release)
    run = client.get_run(client.get_model_version(recipe.name, "1").run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["e4t.stage"] == "release"
    assert run.data.tags["e4t.release"] == f"{recipe.name} 1.0.0"
    assert len(run.data.tags["e4t.data_manifest"]) == 64
    assert {file.path for file in client.list_artifacts(run.info.run_id)} >= {"recipe.yaml", "environment.json"}


def test_registering_the_same_release_twice_creates_one_version(
    recipe: Recipe, client: MlflowClient, tmp_path: Path
) -> None:
    release = build_release(recipe, tmp_path, "1.0.0")
    assert register(recipe, release) == register(recipe, release) == 1
    assert len(client.search_model_versions(f"name = '{recipe.name}'")) == 1


def test_registering_again_sets_a_missing_alias(recipe: Recipe, client: MlflowClient, tmp_path: Path) -> None:
    release = build_release(recipe, tmp_path, "1.0.0")
    register(recipe, release)
    client.delete_registered_model_alias(recipe.name, "candidate")
    register(recipe, release)
    assert client.get_registered_model(recipe.name).aliases == {"candidate": 1}


def test_a_version_registered_with_other_weights_is_rejected(
    recipe: Recipe, client: MlflowClient, trained: Trained, tmp_path: Path
) -> None:
    register(recipe, build_release(recipe, tmp_path, "1.0.0"))
    state = trained.state
    other_weights = {name: tensor + 1 for name, tensor in state.weights.items()}
    save(recipe, trained, 400, TrainingState(other_weights, state.moments, 400, 0.0))
    with pytest.raises(ConfigError, match="as version 1 with other weights or settings; give another --version"):
        register(recipe, build_release(recipe, tmp_path / "again", "1.0.0"))
    assert len(client.search_model_versions(f"name = '{recipe.name}'")) == 1


def test_a_later_evaluation_tags_the_versions_with_the_same_weights(
    two: str, recipe: Recipe, client: MlflowClient
) -> None:
    weights = client.get_model_version(two, "1").tags["e4t.weights"]
    client.set_model_version_tag(two, "2", "e4t.weights", "0" * 64)
    with stage_run(recipe, "evaluate") as tracker:
        tracker.tag_model_versions(two, "e4t.weights", weights, "evaluate_run_id")
    assert client.get_model_version(two, "1").tags["evaluate_run_id"] == stage_run_id(recipe, "evaluate")
    assert "evaluate_run_id" not in client.get_model_version(two, "2").tags


def test_promote_sets_an_alias_and_rolls_it_back(two: str, recipe: Recipe, client: MlflowClient) -> None:
    runs = Path(recipe.runs)
    assert promote(two, "1", "champion", runs) == (None, "1")
    assert promote(two, "1.1.0", "champion", runs) == ("1", "2"), "versions can be given by semantic version"
    assert promote(two, "1", "champion", runs) == ("2", "1")
    assert client.get_model_version_by_alias(two, "champion").version == 1
    assert client.get_model_version_by_alias(two, "candidate").version == 2, "the other alias stays"


def test_a_promotion_is_logged_as_a_run_with_both_versions(two: str, recipe: Recipe, client: MlflowClient) -> None:
    promote(two, "1", "champion", Path(recipe.runs))
    promote(two, "2", "champion", Path(recipe.runs))
    experiment = client.get_experiment_by_name("e4t")
    assert experiment
    runs = client.search_runs([experiment.experiment_id], "tags.`e4t.stage` = 'promote'")
    latest_run = next(run for run in runs if run.info.run_name == f"{two}@champion: 1 -> 2")
    assert latest_run.info.status == "FINISHED"
    tags = {name: latest_run.data.tags[f"e4t.{name}"] for name in ("release", "alias", "version", "version_before")}
    assert tags == {"release": f"{two} 1.1.0", "alias": "champion", "version": "2", "version_before": "1"}
    assert latest_run.data.tags["mlflow.user"]


def test_a_missing_version_is_reported_with_the_available_ones(two: str, recipe: Recipe) -> None:
    with pytest.raises(RunError, match=r"no version 3 of .* available: 1 \(1.0.0\), 2 \(1.1.0\)"):
        promote(two, "3", "champion", Path(recipe.runs))
    with pytest.raises(RunError, match="no version 1 of nobody is registered; available: none"):
        promote("nobody", "1", "champion", Path(recipe.runs))


def test_an_invalid_alias_is_reported_in_one_line(two: str, recipe: Recipe) -> None:
    for alias in ("v1", "latest", "a b"):
        with pytest.raises(RunError, match="cannot set alias") as caught:
            promote(two, "1", alias, Path(recipe.runs))
        assert "\n" not in str(caught.value)


def test_registering_leaves_the_environment_unchanged(recipe: Recipe, tmp_path: Path) -> None:
    register(recipe, build_release(recipe, tmp_path, "1.0.0"))
    assert "MLFLOW_TRACKING_URI" not in os.environ


def test_an_unreachable_registry_is_reported_and_the_release_stays_usable(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = build_release(recipe, tmp_path, "1.0.0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(RunError, match="is complete and usable, but .*rerun the command") as caught:
        register(recipe, release)
    assert "\n" not in str(caught.value)
    assert Release.open(release.folder).version == "1.0.0"
    with pytest.raises(RunError, match="cannot set alias") as caught:
        promote(recipe.name, "1", "champion", Path(recipe.runs))
    assert "\n" not in str(caught.value)


def test_promote_command_prints_the_move_and_the_rollback(two: str, recipe: Recipe, e4t: E4T) -> None:
    code, out, err = e4t("promote", two, "1.0.0", "--runs", recipe.runs)
    assert (code, out, err) == (0, f"{two}@champion: none -> 1\n", "")
    code, out, _ = e4t("promote", two, "2", "--alias", "champion", "--runs", recipe.runs)
    assert out == f"{two}@champion: 1 -> 2\nrollback: e4t promote {two} 1 --alias champion\n"
    code, _, err = e4t("promote", two, "9", "--runs", recipe.runs)
    assert code == 1
    assert err.count("\n") == 1
