"""Tests of provenance.json: what it records, and detecting modified files."""

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


def test_provenance_records_recipe_checkpoint_data_base_and_code(
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


def test_provenance_records_the_digest_of_every_other_file(release: Release) -> None:
    files = {str(path.relative_to(release.folder)) for path in release.folder.rglob("*") if path.is_file()}
    assert read_provenance(release.folder)["files"].keys() == files - {"provenance.json"}


@pytest.mark.parametrize("file", ["README.md", "index.json", "weight_offsets/model.safetensors"])
def test_a_modified_file_is_found(release: Release, file: str) -> None:
    provenance = read_provenance(release.folder)
    assert list(modified_files(release.folder, provenance)) == []
    data = bytearray((release.folder / file).read_bytes())
    data[-1] ^= 1
    (release.folder / file).write_bytes(data)
    assert list(modified_files(release.folder, provenance)) == [file]


def test_a_missing_file_is_found(release: Release) -> None:
    (release.folder / "README.md").unlink()
    assert list(modified_files(release.folder, read_provenance(release.folder))) == ["README.md"]


@pytest.mark.parametrize(
    ("trained", "released", "message"),
    [
        ("0123-changed", "0123", "trained with"),
        ("0123", "0123-changed", "released with"),
        ("0123-changed", "0123-changed", "trained and released with"),
    ],
)
def test_uncommitted_code_is_reported_with_what_it_was_used_for(trained: str, released: str, message: str) -> None:
    with pytest.raises(RunError, match=f"^{message} uncommitted code changes.*--allow-dirty"):
        check_clean({"environment": {"code": trained}, "released_by": {"code": released}})


def test_committed_code_and_code_outside_a_checkout_are_clean() -> None:
    check_clean({"environment": {"code": "0123"}, "released_by": {"code": "unknown"}})


@pytest.mark.parametrize("text", [None, "", "{"])
def test_unreadable_provenance_is_reported_in_one_line(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "provenance.json").write_text(text)
    with pytest.raises(RunError, match="has no readable provenance.json") as caught:
        read_provenance(tmp_path)
    assert "\n" not in str(caught.value)
