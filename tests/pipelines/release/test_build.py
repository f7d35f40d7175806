"""Tests of building a release from a checkpoint: content, atomicity, and refusals."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from e4t_errors import ConfigError
from encoder.errors import ModelError
from encoder.model.domain_encoder import DomainEncoder, DomainEncoderConfig
from encoder.model.weight_offsets import load_offsets
from encoder.pipeline import E4TPipeline
from encoder.releases.index import FORMAT_VERSION, INDEX
from encoder.releases.release import Release
from pipelines.config.recipe import Recipe
from pipelines.errors import RunError
from pipelines.pretraining.checkpoints.state import TrainingState
from pipelines.pretraining.optimizer import EMA
from pipelines.pretraining.run_folder import Run
from pipelines.release.build import candidate_release, make_release
from pipelines.release.registration import register
from tests.bases import SHIPPED
from tests.pipelines.made_run import Trained, evaluate, made_run, recipe_in, save


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return recipe_in(tmp_path)


@pytest.fixture
def run(recipe: Recipe, trained: Trained) -> Run:
    """Return a run with one complete checkpoint."""
    return made_run(recipe, trained, 300)


def build_release(recipe: Recipe, output: Path, version: str = "1.0.0", **settings: Any) -> Release:
    """Build a release whether or not the checkout of these tests has uncommitted changes."""
    return make_release(recipe, output, version, allow_dirty=True, **settings)


def weights(encoder: DomainEncoder) -> dict[str, Tensor]:
    return dict(encoder.state_dict())


def test_a_release_holds_the_trained_weights(recipe: Recipe, run: Run, trained: Trained, tmp_path: Path) -> None:
    release = build_release(recipe, tmp_path / "release", "1.2.3")
    assert (release.name, release.version) == ("faces", "1.2.3")
    loaded = DomainEncoder(DomainEncoderConfig(**release.encoder_config))
    release.load_encoder(loaded)
    assert all(torch.equal(weights(loaded)[name], tensor) for name, tensor in weights(trained.encoder).items())
    assert len(load_offsets(release.offsets)) > 0
    assert release.encoder_config == json.loads(json.dumps(asdict(trained.encoder.config)))


def test_a_release_holds_the_ema_weights_if_there_are_some(
    recipe: Recipe, run: Run, trained: Trained, tmp_path: Path
) -> None:
    state = trained.state
    ema = {name: tensor + 1 for name, tensor in state.weights.items()}
    save(recipe, trained, 400, TrainingState(state.weights, state.moments | {EMA: ema}, 400, 0.0))
    loaded = DomainEncoder(trained.encoder.config)
    build_release(recipe, tmp_path / "release", "1.2.3").load_encoder(loaded)
    assert all(torch.equal(weights(loaded)[name], tensor + 1) for name, tensor in weights(trained.encoder).items())


def test_a_checkpoint_with_weights_that_are_not_finite_is_not_released(
    recipe: Recipe, trained: Trained, tmp_path: Path
) -> None:
    made_run(recipe, trained)
    state = trained.state
    broken = {name: tensor * float("nan") for name, tensor in state.weights.items()}
    save(recipe, trained, 300, TrainingState(broken, state.moments, 300, 0.0))
    with pytest.raises(ModelError, match=r"checkpoint .*step_00000300.* not finite .* release an earlier one"):
        build_release(recipe, tmp_path / "release")
    assert not (tmp_path / "release").exists()


def test_a_release_with_weights_that_are_not_finite_is_neither_loaded_nor_registered(
    recipe: Recipe, run: Run, trained: Trained, tmp_path: Path
) -> None:
    release = build_release(recipe, tmp_path / "release")
    path = release.folder / "domain_encoder" / "model.safetensors"
    save_file({name: tensor * float("inf") for name, tensor in load_file(path).items()}, path)
    for use in (lambda: release.load_encoder(trained.encoder), lambda: register(recipe, release)):
        with pytest.raises(ModelError, match="not finite"):
            use()


def test_a_damaged_checkpoint_is_passed_over(recipe: Recipe, run: Run, trained: Trained, tmp_path: Path) -> None:
    save(recipe, trained, 400)
    (run.folder / "checkpoints" / "step_00000400" / "state.json").write_text("{}")
    folder = build_release(recipe, tmp_path / "release", "1.0.0").folder
    assert json.loads((folder / "provenance.json").read_text())["checkpoint"] == "step_00000300"


def test_a_release_opens_by_a_relative_path(
    recipe: Recipe, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_release(recipe, tmp_path / "release", "1.0.0")
    monkeypatch.chdir(tmp_path)
    assert E4TPipeline.from_pretrained("release").release == "faces 1.0.0"


def test_a_release_contains_no_base_model_and_no_pickle(recipe: Recipe, run: Run, tmp_path: Path) -> None:
    folder = build_release(recipe, tmp_path / "release", "1.0.0").folder
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert files == [
        "README.md",
        "domain_encoder/config.json",
        "domain_encoder/model.safetensors",
        "index.json",
        "provenance.json",
        "weight_offsets/config.json",
        "weight_offsets/model.safetensors",
    ]


def test_an_existing_release_is_never_overwritten(recipe: Recipe, run: Run, tmp_path: Path) -> None:
    build_release(recipe, tmp_path / "release", "1.0.0")
    with pytest.raises(ConfigError, match="never overwritten"):
        build_release(recipe, tmp_path / "release", "1.0.1")
    assert Release.open(tmp_path / "release").version == "1.0.0"


def test_leftovers_of_an_interrupted_release_are_replaced(recipe: Recipe, run: Run, tmp_path: Path) -> None:
    (tmp_path / ".release.partial").mkdir()
    (tmp_path / ".release.partial" / "half.safetensors").touch()
    folder = build_release(recipe, tmp_path / "release", "1.0.0").folder
    assert not (folder / "half.safetensors").exists()
    assert not (tmp_path / ".release.partial").exists()


@pytest.mark.parametrize("version", ["1.0", "v1.0.0", "01.0.0", "latest", ""])
def test_a_version_that_is_not_semantic_is_rejected(recipe: Recipe, run: Run, tmp_path: Path, version: str) -> None:
    with pytest.raises(ConfigError, match="not a semantic version"):
        build_release(recipe, tmp_path / "release", version)


def test_a_run_without_a_complete_checkpoint_cannot_be_build_release(recipe: Recipe, run: Run, tmp_path: Path) -> None:
    (run.folder / "checkpoints" / "step_00000300" / "COMPLETE").unlink()
    with pytest.raises(RunError, match="no complete checkpoint"):
        build_release(recipe, tmp_path / "release", "1.0.0")
    assert not (tmp_path / "release").exists()


def test_a_release_of_a_newer_format_is_rejected_in_one_line(recipe: Recipe, run: Run, tmp_path: Path) -> None:
    folder = build_release(recipe, tmp_path / "release", "1.0.0").folder
    index = json.loads((folder / INDEX).read_text())
    (folder / INDEX).write_text(json.dumps({"format_version": FORMAT_VERSION + 1, "kind": index["kind"], "new": True}))
    with pytest.raises(ModelError) as caught:
        Release.open(folder)
    assert "upgrade e4t" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"kind": "e4t-domain-encoder", "format_version": 1}', '{"kind": "other"}', "\x00"]
)
def test_an_invalid_index_is_rejected_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(ModelError) as caught:
        Release.open(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_release_with_truncated_weights_is_rejected(
    recipe: Recipe, run: Run, trained: Trained, tmp_path: Path
) -> None:
    release = build_release(recipe, tmp_path / "release", "1.0.0")
    path = release.folder / "domain_encoder" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="get the release again"):
        release.load_encoder(DomainEncoder(trained.encoder.config))


def test_a_moved_release_uses_the_given_base_model(recipe: Recipe, run: Run, tmp_path: Path) -> None:
    release = build_release(recipe, tmp_path / "release", "1.0.0")
    moved = tmp_path / "far" / "away"
    moved.parent.mkdir()
    shutil.move(release.folder, moved)
    assert Release.open(moved).backbone_config(str(SHIPPED)).model == str(SHIPPED)


def test_building_the_same_release_again_returns_the_existing_one(recipe: Recipe, run: Run, tmp_path: Path) -> None:
    first = build_release(recipe, tmp_path / "release")
    card_mtime = (first.folder / "README.md").stat().st_mtime_ns
    assert build_release(recipe, tmp_path / "release") == first
    assert (first.folder / "README.md").stat().st_mtime_ns == card_mtime


def test_a_release_with_an_index_of_version_1_is_recognized(recipe: Recipe, run: Run, tmp_path: Path) -> None:
    path = build_release(recipe, tmp_path / "release").folder / INDEX
    index = json.loads(path.read_text()) | {"format_version": 1}
    index["base"]["clip"] = index["base"].pop("image_encoder")
    index["conditioning"]["residual_scale"] = index["conditioning"].pop("embedding_scale")
    index["tuning"]["regulariser"] = index["tuning"].pop("regularization_weight")
    index["sampling"]["guidance"] = index["sampling"].pop("guidance_scale")
    path.write_text(json.dumps(index))
    assert build_release(recipe, tmp_path / "release").recorded_settings[1] == index["tuning"]
    assert json.loads(path.read_text()) == index, "the existing release is not rewritten"


def test_an_existing_release_with_other_weights_is_not_overwritten(
    recipe: Recipe, run: Run, trained: Trained, tmp_path: Path
) -> None:
    release = build_release(recipe, tmp_path / "release")
    state = trained.state
    other_weights = {name: tensor + 1 for name, tensor in state.weights.items()}
    save(recipe, trained, 400, TrainingState(other_weights, state.moments, 400, 0.0))
    with pytest.raises(ConfigError, match="never overwritten"):
        build_release(recipe, tmp_path / "release")
    first_checkpoint = run.folder / "checkpoints" / "step_00000300"
    with release.offsets.open("ab") as file:
        file.write(b" ")
    with pytest.raises(ConfigError, match="never overwritten"):
        build_release(recipe, tmp_path / "release", checkpoint=first_checkpoint)


def test_uncommitted_code_needs_allow_dirty(recipe: Recipe, trained: Trained, tmp_path: Path) -> None:
    made_run(recipe, trained)
    trained = Trained(trained.encoder, trained.predictor, trained.base, {"environment": {"code": "0123-changed"}})
    save(recipe, trained, 300)
    with pytest.raises(RunError, match="trained(?s:.)* with uncommitted code changes"):
        make_release(recipe, tmp_path / "release", "1.0.0")
    assert not (tmp_path / "release").exists()


def test_a_release_below_its_minimum_scores_is_not_written(recipe: Recipe, trained: Trained, tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path, min_scores={"identity_similarity": 0.5})
    made_run(recipe, trained, 300)
    with pytest.raises(RunError, match="no evaluation of this checkpoint"):
        build_release(recipe, tmp_path / "release")
    digest = Release.open(candidate_release(recipe)).content_digest
    evaluate(recipe, digest, identity_similarity=0.4)
    with pytest.raises(RunError, match="identity_similarity is 0.400 of 0.5"):
        build_release(recipe, tmp_path / "release")
    assert not (tmp_path / "release").exists()
    evaluate(recipe, digest, identity_similarity=0.5)
    assert build_release(recipe, tmp_path / "release").content_digest == digest


def test_the_candidate_is_the_latest_checkpoint(recipe: Recipe, run: Run, trained: Trained) -> None:
    first = Release.open(candidate_release(recipe))
    assert (first.folder, first.id) == (run.folder / "candidate", "faces 0.0.0-step.00000300")
    index_mtime = (first.folder / INDEX).stat().st_mtime_ns
    candidate_release(recipe)
    assert (first.folder / INDEX).stat().st_mtime_ns == index_mtime, "an existing candidate is kept"
    save(recipe, trained, 400)
    assert Release.open(candidate_release(recipe)).version == "0.0.0-step.00000400"
