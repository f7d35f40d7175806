"""Tests of resolving release locations: folders, and registered versions, which are downloaded once."""

from pathlib import Path
from threading import Thread

import pytest

from e4t_errors import ConfigError
from encoder.errors import ModelError
from encoder.releases.release import Release
from pipelines.config.recipe import Recipe
from pipelines.errors import RunError
from pipelines.registry.resolve import cache_folder, resolve_release
from pipelines.release.build import make_release
from pipelines.release.registration import promote, register
from tests.pipelines.mlflow_server import free_port


@pytest.fixture
def release(recipe: Recipe, tmp_path: Path) -> Release:
    """Register a release as version 1 and champion of a model with its name."""
    release = make_release(recipe, tmp_path / "other name", "1.0.0", allow_dirty=True)
    register(recipe, release)
    promote(release.name, "1", "champion", Path(recipe.runs))
    return release


def test_a_folder_resolves_to_itself(tmp_path: Path) -> None:
    assert resolve_release(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("location", ["models:/{}@champion", "models:/{}/1"])
def test_a_version_resolves_by_alias_and_by_number(release: Release, recipe: Recipe, location: str) -> None:
    folder = resolve_release(location.format(release.name), recipe.runs)
    assert folder.is_relative_to(cache_folder() / "releases")
    assert (Release.open(folder).id, Release.open(folder).content_digest) == (release.id, release.content_digest)


def test_a_version_is_downloaded_once(release: Release, recipe: Recipe) -> None:
    first = resolve_release(f"models:/{release.name}@champion", recipe.runs)
    stored = [path for path in (Path(recipe.runs) / "mlartifacts").rglob("model.safetensors") if path.is_file()]
    assert stored
    for path in stored:
        path.write_bytes(b"other bytes")
    assert resolve_release(f"models:/{release.name}/1", recipe.runs) == first
    assert Release.open(first).content_digest == release.content_digest


def test_the_environment_variable_sets_the_cache_folder(
    release: Release, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("E4T_CACHE", str(tmp_path / "elsewhere"))
    assert resolve_release(f"models:/{release.name}/1", recipe.runs).is_relative_to(tmp_path / "elsewhere" / "releases")
    monkeypatch.delenv("E4T_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "e4t"


def test_concurrent_downloads_of_a_version_all_succeed(release: Release, recipe: Recipe) -> None:
    digests: list[str] = []
    threads = [
        Thread(
            target=lambda: digests.append(
                Release.open(resolve_release(f"models:/{release.name}/1", recipe.runs)).content_digest
            )
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert digests == [release.content_digest] * 4
    [entry] = (cache_folder() / "releases").iterdir()
    assert not entry.name.startswith("."), "no partial download is left"


def test_artifacts_missing_on_the_server_are_reported_and_leave_no_partial_download(
    release: Release, recipe: Recipe
) -> None:
    stored = Path(recipe.runs) / "mlartifacts"
    hidden = stored.rename(stored.with_name("hidden"))
    try:
        with pytest.raises(RunError, match=f"cannot download version 1 of {release.name}") as caught:
            resolve_release(f"models:/{release.name}/1", recipe.runs)
    finally:
        hidden.rename(stored)
    assert "\n" not in str(caught.value)
    assert (
        Release.open(resolve_release(f"models:/{release.name}/1", recipe.runs)).content_digest == release.content_digest
    )


def test_a_modified_stored_release_is_rejected(release: Release, recipe: Recipe) -> None:
    stored = Path(recipe.runs) / "mlartifacts"
    for path in stored.rglob("release/weight_offsets/model.safetensors"):
        path.write_bytes(b"other bytes")
    with pytest.raises(RunError, match="the stored files differ from the registered release"):
        resolve_release(f"models:/{release.name}/1", recipe.runs)
    assert not list((cache_folder() / "releases").iterdir())


@pytest.mark.parametrize(
    "location",
    [
        "models:",
        "models:/",
        "models:/faces",
        "models:/faces/latest",
        "models:/a/b@c",
        "models:/faces@",
        "models:faces@x",
    ],
)
def test_a_malformed_registry_uri_is_rejected_with_the_expected_form(location: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give models:/name@alias or models:/name/3"):
        resolve_release(location, tmp_path)


@pytest.mark.parametrize(
    "location", ["models:/{}@champio", "models:/{}/7", "models:/nobody@champion", "models:/nobody/1"]
)
def test_a_missing_version_is_reported_in_one_line(release: Release, recipe: Recipe, location: str) -> None:
    with pytest.raises(RunError, match="from MLflow at") as caught:
        resolve_release(location.format(release.name), recipe.runs)
    assert "\n" not in str(caught.value)


def test_an_unreachable_registry_is_reported_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(RunError, match="from MLflow at") as caught:
        resolve_release("models:/faces@champion", tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        resolve_release(str(tmp_path / "none"))
