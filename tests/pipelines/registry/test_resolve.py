"""Where releases are: folders, and versions in a registry, which are fetched once."""

from pathlib import Path
from threading import Thread

import pytest

from e4t import ConfigError
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
    """Version 1 and champion of a model of its name."""
    release = make_release(recipe, tmp_path / "called otherwise", "1.0.0", allow_dirty=True)
    register(recipe, release)
    promote(release.name, "1", "champion", Path(recipe.runs))
    return release


def test_a_folder_is_where_it_is(tmp_path: Path) -> None:
    assert resolve_release(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("place", ["models:/{}@champion", "models:/{}/1"])
def test_a_version_is_had_by_alias_and_by_number(release: Release, recipe: Recipe, place: str) -> None:
    found = resolve_release(place.format(release.name), recipe.runs)
    assert found.is_relative_to(cache_folder() / "releases")
    assert (Release.open(found).id, Release.open(found).content_digest) == (release.id, release.content_digest)


def test_the_second_time_nothing_is_fetched(release: Release, recipe: Recipe) -> None:
    first = resolve_release(f"models:/{release.name}@champion", recipe.runs)
    stored = [path for path in (Path(recipe.runs) / "mlartifacts").rglob("model.safetensors") if path.is_file()]
    assert stored
    for path in stored:
        path.write_bytes(b"other bytes")
    assert resolve_release(f"models:/{release.name}/1", recipe.runs) == first
    assert Release.open(first).content_digest == release.content_digest


def test_the_cache_is_where_the_environment_says(
    release: Release, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("E4T_CACHE", str(tmp_path / "elsewhere"))
    assert resolve_release(f"models:/{release.name}/1", recipe.runs).is_relative_to(tmp_path / "elsewhere" / "releases")
    monkeypatch.delenv("E4T_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "e4t"


def test_several_that_fetch_the_same_at_once_all_get_it(release: Release, recipe: Recipe) -> None:
    found: list[str] = []
    threads = [
        Thread(
            target=lambda: found.append(
                Release.open(resolve_release(f"models:/{release.name}/1", recipe.runs)).content_digest
            )
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [release.content_digest] * 4
    [kept] = (cache_folder() / "releases").iterdir()
    assert not kept.name.startswith("."), "nothing half is left"


def test_what_the_server_has_lost_is_one_line_and_nothing_half_is_kept(release: Release, recipe: Recipe) -> None:
    stored = Path(recipe.runs) / "mlartifacts"
    away = stored.rename(stored.with_name("away"))
    try:
        with pytest.raises(RunError, match=f"{release.name} 1 cannot be fetched") as caught:
            resolve_release(f"models:/{release.name}/1", recipe.runs)
    finally:
        away.rename(stored)
    assert "\n" not in str(caught.value)
    assert (
        Release.open(resolve_release(f"models:/{release.name}/1", recipe.runs)).content_digest == release.content_digest
    )


def test_what_is_stored_and_is_not_what_was_registered_is_refused(release: Release, recipe: Recipe) -> None:
    stored = Path(recipe.runs) / "mlartifacts"
    for path in stored.rglob("release/weight_offsets/model.safetensors"):
        path.write_bytes(b"other bytes")
    with pytest.raises(RunError, match="what is stored is not what was registered"):
        resolve_release(f"models:/{release.name}/1", recipe.runs)
    assert not list((cache_folder() / "releases").iterdir())


@pytest.mark.parametrize(
    "place",
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
def test_what_is_no_version_is_refused_with_its_form(place: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give models:/name@alias or models:/name/3"):
        resolve_release(place, tmp_path)


@pytest.mark.parametrize("place", ["models:/{}@champio", "models:/{}/7", "models:/nobody@champion", "models:/nobody/1"])
def test_a_version_that_is_not_there_is_one_line(release: Release, recipe: Recipe, place: str) -> None:
    with pytest.raises(RunError, match="is not to be had from MLflow") as caught:
        resolve_release(place.format(release.name), recipe.runs)
    assert "\n" not in str(caught.value)


def test_a_registry_that_is_away_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(RunError, match="is not to be had from MLflow") as caught:
        resolve_release("models:/faces@champion", tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        resolve_release(str(tmp_path / "none"))
