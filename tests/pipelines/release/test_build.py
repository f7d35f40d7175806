"""A checkpoint becomes a release that opens, is whole or not there, and says where it comes from."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from e4t import ConfigError
from encoder.errors import ModelError
from encoder.model.domain_encoder import DomainEncoder, DomainEncoderConfig
from encoder.model.weight_offsets import load_offsets
from encoder.pipeline import E4TPipeline
from encoder.releases.release import FORMAT_VERSION, INDEX, Release
from pipelines.config.recipe import Recipe
from pipelines.errors import RunError
from pipelines.pretraining.checkpoints.state import TrainingState
from pipelines.pretraining.optimizer import EMA
from pipelines.pretraining.run_folder import Run
from pipelines.release.build import candidate_release, make_release
from tests.bases import SHIPPED
from tests.pipelines.made_run import Trained, evaluate, made_run, recipe_in, save


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return recipe_in(tmp_path)


@pytest.fixture
def run(recipe: Recipe, trained: Trained) -> Run:
    """A run with one whole checkpoint."""
    return made_run(recipe, trained, 300)


def released(recipe: Recipe, output: Path, version: str = "1.0.0", **settings: Any) -> Release:
    """Whether the code of these tests has changes is nothing to them."""
    return make_release(recipe, output, version, allow_dirty=True, **settings)


def weights(encoder: DomainEncoder) -> dict[str, Tensor]:
    return dict(encoder.state_dict())


def test_a_release_gives_back_the_trained_weights(recipe: Recipe, run: Run, trained: Trained, tmp_path: Path) -> None:
    release = released(recipe, tmp_path / "release", "1.2.3")
    assert (release.name, release.version) == ("faces", "1.2.3")
    loaded = DomainEncoder(DomainEncoderConfig(**release.encoder_config))
    release.load_encoder(loaded)
    assert all(torch.equal(weights(loaded)[name], tensor) for name, tensor in weights(trained.encoder).items())
    assert len(load_offsets(release.offsets)) > 0
    assert release.encoder_config == json.loads(json.dumps(asdict(trained.encoder.config)))


def test_a_release_has_the_average_of_the_weights_if_one_was_kept(
    recipe: Recipe, run: Run, trained: Trained, tmp_path: Path
) -> None:
    state = trained.state
    average = {name: tensor + 1 for name, tensor in state.weights.items()}
    save(recipe, trained, 400, TrainingState(state.weights, state.moments | {EMA: average}, 400, 0.0))
    loaded = DomainEncoder(trained.encoder.config)
    released(recipe, tmp_path / "release", "1.2.3").load_encoder(loaded)
    assert all(torch.equal(weights(loaded)[name], tensor + 1) for name, tensor in weights(trained.encoder).items())


def test_a_damaged_checkpoint_is_not_what_is_released(
    recipe: Recipe, run: Run, trained: Trained, tmp_path: Path
) -> None:
    save(recipe, trained, 400)
    (run.folder / "checkpoints" / "step_00000400" / "state.json").write_text("{}")
    made = released(recipe, tmp_path / "release", "1.0.0").folder
    assert json.loads((made / "provenance.json").read_text())["checkpoint"] == "step_00000300"


def test_a_release_opens_as_a_pipeline_wherever_it_is_asked_from(
    recipe: Recipe, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released(recipe, tmp_path / "release", "1.0.0")
    monkeypatch.chdir(tmp_path)
    assert E4TPipeline.from_pretrained("release").release == "faces 1.0.0"


def test_nothing_of_the_base_and_no_pickle_is_in_a_release(recipe: Recipe, run: Run, tmp_path: Path) -> None:
    made = released(recipe, tmp_path / "release", "1.0.0").folder
    files = sorted(str(path.relative_to(made)) for path in made.rglob("*") if path.is_file())
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
    released(recipe, tmp_path / "release", "1.0.0")
    with pytest.raises(ConfigError, match="never overwritten"):
        released(recipe, tmp_path / "release", "1.0.1")
    assert Release.open(tmp_path / "release").version == "1.0.0"


def test_what_an_interrupted_release_left_is_written_anew(recipe: Recipe, run: Run, tmp_path: Path) -> None:
    (tmp_path / ".release.partial").mkdir()
    (tmp_path / ".release.partial" / "half.safetensors").touch()
    made = released(recipe, tmp_path / "release", "1.0.0").folder
    assert not (made / "half.safetensors").exists()
    assert not (tmp_path / ".release.partial").exists()


@pytest.mark.parametrize("version", ["1.0", "v1.0.0", "01.0.0", "latest", ""])
def test_a_version_that_is_not_semantic_is_refused(recipe: Recipe, run: Run, tmp_path: Path, version: str) -> None:
    with pytest.raises(ConfigError, match="not semantic"):
        released(recipe, tmp_path / "release", version)


def test_a_run_without_a_complete_checkpoint_cannot_be_released(recipe: Recipe, run: Run, tmp_path: Path) -> None:
    (run.folder / "checkpoints" / "step_00000300" / "COMPLETE").unlink()
    with pytest.raises(RunError, match="no complete checkpoint"):
        released(recipe, tmp_path / "release", "1.0.0")
    assert not (tmp_path / "release").exists()


def test_a_release_of_a_newer_format_is_refused_in_one_line(recipe: Recipe, run: Run, tmp_path: Path) -> None:
    made = released(recipe, tmp_path / "release", "1.0.0").folder
    index = json.loads((made / INDEX).read_text())
    (made / INDEX).write_text(json.dumps({"format_version": FORMAT_VERSION + 1, "kind": index["kind"], "new": True}))
    with pytest.raises(ModelError) as caught:
        Release.open(made)
    assert "upgrade e4t" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"kind": "e4t-domain-encoder", "format_version": 1}', '{"kind": "other"}', "\x00"]
)
def test_a_broken_index_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(ModelError) as caught:
        Release.open(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_release_whose_weights_are_cut_is_refused(recipe: Recipe, run: Run, trained: Trained, tmp_path: Path) -> None:
    release = released(recipe, tmp_path / "release", "1.0.0")
    path = release.folder / "domain_encoder" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="get the release again"):
        release.load_encoder(DomainEncoder(trained.encoder.config))


def test_a_moved_release_takes_the_base_from_where_it_is_told(recipe: Recipe, run: Run, tmp_path: Path) -> None:
    release = released(recipe, tmp_path / "release", "1.0.0")
    moved = tmp_path / "far" / "away"
    moved.parent.mkdir()
    shutil.move(release.folder, moved)
    assert Release.open(moved).backbone_config(str(SHIPPED)).model == str(SHIPPED)


def test_the_same_command_again_gives_the_release_that_is_there(recipe: Recipe, run: Run, tmp_path: Path) -> None:
    first = released(recipe, tmp_path / "release")
    card = (first.folder / "README.md").stat().st_mtime_ns
    assert released(recipe, tmp_path / "release") == first
    assert (first.folder / "README.md").stat().st_mtime_ns == card


def test_another_checkpoint_or_damaged_weights_are_another_release(
    recipe: Recipe, run: Run, trained: Trained, tmp_path: Path
) -> None:
    release = released(recipe, tmp_path / "release")
    state = trained.state
    others = {name: tensor + 1 for name, tensor in state.weights.items()}
    save(recipe, trained, 400, TrainingState(others, state.moments, 400, 0.0))
    with pytest.raises(ConfigError, match="never overwritten"):
        released(recipe, tmp_path / "release")
    kept = run.folder / "checkpoints" / "step_00000300"
    with release.offsets.open("ab") as file:
        file.write(b" ")
    with pytest.raises(ConfigError, match="never overwritten"):
        released(recipe, tmp_path / "release", checkpoint=kept)


def test_changed_code_releases_only_when_told(recipe: Recipe, trained: Trained, tmp_path: Path) -> None:
    made_run(recipe, trained)
    trained = Trained(trained.encoder, trained.predictor, trained.base, {"environment": {"code": "0123-changed"}})
    save(recipe, trained, 300)
    with pytest.raises(RunError, match="trained(?s:.)* by changed code that no revision holds"):
        make_release(recipe, tmp_path / "release", "1.0.0")
    assert not (tmp_path / "release").exists()


def test_a_release_below_the_gate_is_not_there_at_all(recipe: Recipe, trained: Trained, tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path, gate={"likeness": 0.5})
    made_run(recipe, trained, 300)
    with pytest.raises(RunError, match="no evaluation of this checkpoint"):
        released(recipe, tmp_path / "release")
    looked_at = Release.open(candidate_release(recipe)).content_digest
    evaluate(recipe, looked_at, likeness=0.4)
    with pytest.raises(RunError, match="likeness is 0.400 of 0.5"):
        released(recipe, tmp_path / "release")
    assert not (tmp_path / "release").exists()
    evaluate(recipe, looked_at, likeness=0.5)
    assert released(recipe, tmp_path / "release").content_digest == looked_at


def test_what_is_evaluated_before_there_is_a_release_is_the_newest_checkpoint(
    recipe: Recipe, run: Run, trained: Trained
) -> None:
    first = Release.open(candidate_release(recipe))
    assert (first.folder, first.id) == (run.folder / "candidate", "faces 0.0.0-step.00000300")
    written = (first.folder / INDEX).stat().st_mtime_ns
    candidate_release(recipe)
    assert (first.folder / INDEX).stat().st_mtime_ns == written, "it is not made anew"
    save(recipe, trained, 400)
    assert Release.open(candidate_release(recipe)).version == "0.0.0-step.00000400"
