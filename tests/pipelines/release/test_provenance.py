"""What a release says of where it comes from, and that its files are what was released."""

from pathlib import Path

import pytest
import torch

from data_prep.shards.manifest import Manifest
from encoder.releases.release import Release
from pipelines.config.recipe import Recipe
from pipelines.errors import RunError
from pipelines.release.build import make_release
from pipelines.release.provenance import check_clean, modified_files, read_provenance
from tests.pipelines.made_run import REVISION, Trained, made_run, recipe_in


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return recipe_in(tmp_path)


@pytest.fixture
def release(recipe: Recipe, trained: Trained, tmp_path: Path) -> Release:
    made_run(recipe, trained, 300)
    return make_release(recipe, tmp_path / "release", "1.0.0", allow_dirty=True)


def test_a_release_names_recipe_checkpoint_data_base_and_code(
    recipe: Recipe, release: Release, trained: Trained
) -> None:
    provenance = read_provenance(release.folder)
    assert provenance["recipe"] == recipe.to_dict()
    assert provenance["checkpoint"] == "step_00000300"
    assert provenance["steps"] == 300
    assert provenance["data_manifest"] == Manifest.load(recipe.data.output).digest
    assert provenance["data_identities"] == {"train": 1200}
    assert provenance["base"] == trained.base
    assert len(provenance["base"]["weights"]) == 64
    assert provenance["environment"]["code"] == REVISION
    assert provenance["released_by"]["torch"] == torch.__version__
    assert provenance["mlflow_run_id"] is None


def test_every_other_file_is_named_by_its_digest(release: Release) -> None:
    there = {str(path.relative_to(release.folder)) for path in release.folder.rglob("*") if path.is_file()}
    assert read_provenance(release.folder)["files"].keys() == there - {"provenance.json"}


@pytest.mark.parametrize("file", ["README.md", "index.json", "weight_offsets/model.safetensors"])
def test_a_file_that_was_altered_is_found(release: Release, file: str) -> None:
    provenance = read_provenance(release.folder)
    assert list(modified_files(release.folder, provenance)) == []
    data = bytearray((release.folder / file).read_bytes())
    data[-1] ^= 1
    (release.folder / file).write_bytes(data)
    assert list(modified_files(release.folder, provenance)) == [file]


def test_a_file_that_is_gone_is_found(release: Release) -> None:
    (release.folder / "README.md").unlink()
    assert list(modified_files(release.folder, read_provenance(release.folder))) == ["README.md"]


@pytest.mark.parametrize(
    ("trained", "released", "said"),
    [
        ("0123-changed", "0123", "trained by"),
        ("0123", "0123-changed", "released by"),
        ("0123-changed", "0123-changed", "trained and released by"),
    ],
)
def test_code_that_no_revision_holds_is_named_by_what_it_did(trained: str, released: str, said: str) -> None:
    with pytest.raises(RunError, match=f"^{said} changed code.*--allow-dirty"):
        check_clean({"environment": {"code": trained}, "released_by": {"code": released}})


def test_code_of_a_revision_and_code_outside_a_checkout_are_clean() -> None:
    check_clean({"environment": {"code": "0123"}, "released_by": {"code": "unknown"}})


@pytest.mark.parametrize("text", [None, "", "{"])
def test_a_release_that_says_nothing_is_refused_in_one_line(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "provenance.json").write_text(text)
    with pytest.raises(RunError, match="does not say where it comes from") as caught:
        read_provenance(tmp_path)
    assert "\n" not in str(caught.value)
