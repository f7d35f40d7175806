"""A checkpoint becomes a release that opens, is whole or not there, and is a version in a real MLflow registry."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor, nn

from data_prep.config import PrepareConfig
from data_prep.manifest import Manifest
from data_prep.store import Store
from encoder.backbone import Backbone
from encoder.config import BackboneConfig, ConditioningConfig
from encoder.domain_encoder import DomainEncoder, DomainEncoderConfig
from encoder.errors import ConfigError, ModelError
from encoder.pipeline import E4TPipeline
from encoder.release_format import FORMAT_VERSION, INDEX, Release
from encoder.weight_offsets import OffsetPredictor, load_offsets
from pipelines.checkpoints import Checkpoints
from pipelines.config import PretrainConfig, Recipe
from pipelines.errors import RunError
from pipelines.optimizer import AVERAGE
from pipelines.release import make_release, register
from pipelines.run import Run
from pipelines.saved_state import Progress, write_state
from pipelines.tracking import Tracker, connect
from pipelines.training_state import TrainingState

BASE = Path(__file__).parents[2] / "models" / "base"


@pytest.fixture(scope="module")
def base() -> Backbone:
    return Backbone.load(BackboneConfig(model=str(BASE)))


@pytest.fixture(scope="module")
def trained(base: Backbone) -> DomainEncoder:
    torch.manual_seed(0)
    encoder = DomainEncoder(DomainEncoderConfig.for_backbone(base, hidden_width=32))
    torch.nn.init.normal_(encoder.to_embedding.weight)
    return encoder


@pytest.fixture(scope="module")
def predictor(base: Backbone) -> OffsetPredictor:
    return OffsetPredictor.for_unet(base.unet)


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return Recipe(
        name="faces",
        runs=str(tmp_path / "runs"),
        base=BackboneConfig(model=str(BASE)),
        data=PrepareConfig(source=str(tmp_path / "faces"), output=str(tmp_path / "shards"), concept="person"),
        conditioning=ConditioningConfig(domain_word="person", templates=("a portrait of a *s",)),
        pretrain=PretrainConfig(hidden_width=32),
    )


@pytest.fixture
def run(recipe: Recipe, trained: DomainEncoder, predictor: OffsetPredictor) -> Run:
    """A run with a whole checkpoint of a small encoder, over a manifest."""
    splits: dict[str, list] = {"train": [], "val": [], "test": []}
    manifest = Manifest(
        concept="person", resolution=64, codec="png", config_digest="c", identities={"train": 1200}, kept=0, dropped={},
        splits=splits,
    )  # fmt: skip
    Path(recipe.data.output).mkdir()
    manifest.save(Store(recipe.data.output))
    run = Run.open(recipe)
    save(run, 300, TrainingState.start(nn.ModuleDict({"encoder": trained, "offsets": predictor})), predictor)
    return run


def save(run: Run, step: int, state: TrainingState, predictor: OffsetPredictor) -> None:
    progress = Progress(step=step, samples_seen=64 * step, seconds=90.0)
    facts = {"data": {"set": Manifest.load(run.folder.parents[1] / "shards").digest}}
    checkpoints = Checkpoints(run.folder / "checkpoints", keep=2)
    checkpoints.save(step, lambda folder: write_state(folder, state, progress, predictor, facts))
    checkpoints.wait()


def weights(encoder: DomainEncoder) -> dict[str, Tensor]:
    return dict(encoder.state_dict())


def test_a_release_gives_back_the_trained_weights(
    recipe: Recipe, run: Run, trained: DomainEncoder, tmp_path: Path
) -> None:
    release = make_release(recipe, tmp_path / "release", "1.2.3")
    assert (release.name, release.version) == ("faces", "1.2.3")
    loaded = DomainEncoder(DomainEncoderConfig(**release.encoder_config))
    release.load_encoder(loaded)
    assert all(torch.equal(weights(loaded)[name], tensor) for name, tensor in weights(trained).items())
    assert len(load_offsets(release.offsets)) > 0
    assert release.encoder_config == json.loads(json.dumps(asdict(trained.config)))


def test_a_release_has_the_average_of_the_weights_if_one_was_kept(
    recipe: Recipe, run: Run, trained: DomainEncoder, predictor: OffsetPredictor, tmp_path: Path
) -> None:
    state = TrainingState.start(nn.ModuleDict({"encoder": trained, "offsets": predictor}))
    average = {name: tensor + 1 for name, tensor in state.weights.items()}
    save(run, 400, TrainingState(state.weights, state.moments | {AVERAGE: average}, 400, 0.0), predictor)
    loaded = DomainEncoder(trained.config)
    make_release(recipe, tmp_path / "release", "1.2.3").load_encoder(loaded)
    assert all(torch.equal(weights(loaded)[name], tensor + 1) for name, tensor in weights(trained).items())


def test_a_damaged_checkpoint_is_not_what_is_released(
    recipe: Recipe, run: Run, trained: DomainEncoder, predictor: OffsetPredictor, tmp_path: Path
) -> None:
    save(run, 400, TrainingState.start(nn.ModuleDict({"encoder": trained, "offsets": predictor})), predictor)
    (run.folder / "checkpoints" / "step_00000400" / "state.json").write_text("{}")
    made = make_release(recipe, tmp_path / "release", "1.0.0").folder
    assert json.loads((made / "provenance.json").read_text())["checkpoint"] == "step_00000300"


def test_a_release_opens_as_a_pipeline_wherever_it_is_asked_from(
    recipe: Recipe, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_release(recipe, tmp_path / "release", "1.0.0")
    monkeypatch.chdir(tmp_path)
    assert E4TPipeline.from_pretrained("release").release == "faces 1.0.0"


def test_a_release_says_where_it_comes_from(recipe: Recipe, run: Run, tmp_path: Path) -> None:
    made = make_release(recipe, tmp_path / "release", "1.0.0").folder
    provenance = json.loads((made / "provenance.json").read_text())
    assert provenance["recipe"] == recipe.plain()
    assert provenance["checkpoint"] == "step_00000300"
    assert provenance["steps"] == 300
    assert provenance["data_manifest"] == Manifest.load(recipe.data.output).digest
    assert provenance["environment"]["torch"] == torch.__version__


def test_the_model_card_has_the_head_that_the_hub_reads(recipe: Recipe, run: Run, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(run.folder / "samples" / "step_00000300.png")
    made = make_release(recipe, tmp_path / "release", "1.0.0").folder
    _, head, body = (made / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(head)["library_name"] == "e4t"
    assert yaml.safe_load(head)["license"] == "apache-2.0"
    assert "base_model" not in yaml.safe_load(head), "a local folder is no model on the hub"
    assert "300 steps" in body
    assert "19,200 seen" in body
    assert "1,200 identities" in body
    assert "(samples.png)" in body
    assert (made / "samples.png").exists()


def test_nothing_of_the_base_and_no_pickle_is_in_a_release(recipe: Recipe, run: Run, tmp_path: Path) -> None:
    made = make_release(recipe, tmp_path / "release", "1.0.0").folder
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
    make_release(recipe, tmp_path / "release", "1.0.0")
    with pytest.raises(ConfigError, match="never overwritten"):
        make_release(recipe, tmp_path / "release", "1.0.1")
    assert Release.open(tmp_path / "release").version == "1.0.0"


def test_what_an_interrupted_release_left_is_written_anew(recipe: Recipe, run: Run, tmp_path: Path) -> None:
    (tmp_path / ".release.partial").mkdir()
    (tmp_path / ".release.partial" / "half.safetensors").touch()
    made = make_release(recipe, tmp_path / "release", "1.0.0").folder
    assert not (made / "half.safetensors").exists()
    assert not (tmp_path / ".release.partial").exists()


@pytest.mark.parametrize("version", ["1.0", "v1.0.0", "01.0.0", "latest", ""])
def test_a_version_that_is_not_semantic_is_refused(recipe: Recipe, run: Run, tmp_path: Path, version: str) -> None:
    with pytest.raises(ConfigError, match="not semantic"):
        make_release(recipe, tmp_path / "release", version)


def test_a_run_without_a_complete_checkpoint_cannot_be_released(recipe: Recipe, run: Run, tmp_path: Path) -> None:
    (run.folder / "checkpoints" / "step_00000300" / "COMPLETE").unlink()
    with pytest.raises(RunError, match="no complete checkpoint"):
        make_release(recipe, tmp_path / "release", "1.0.0")
    assert not (tmp_path / "release").exists()


def test_a_release_of_a_newer_format_is_refused_in_one_line(recipe: Recipe, run: Run, tmp_path: Path) -> None:
    made = make_release(recipe, tmp_path / "release", "1.0.0").folder
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


def test_a_release_whose_weights_are_cut_is_refused(
    recipe: Recipe, run: Run, trained: DomainEncoder, tmp_path: Path
) -> None:
    release = make_release(recipe, tmp_path / "release", "1.0.0")
    path = release.folder / "domain_encoder" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="get the release again"):
        release.load_encoder(DomainEncoder(trained.config))


def test_a_registered_release_is_the_candidate_and_comes_back_as_it_was(
    recipe: Recipe, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    Tracker(recipe.runs, run.folder, "e4t", recipe.name).close("FINISHED")
    first = make_release(recipe, tmp_path / "first", "1.0.0")
    second = make_release(recipe, tmp_path / "second", "1.1.0")
    assert register(first, recipe.runs) == 1
    assert register(second, recipe.runs) == 2
    client = connect(recipe.runs)
    candidate = client.get_model_version_by_alias("faces", "candidate")
    assert int(candidate.version) == 2
    assert candidate.tags["semantic_version"] == "1.1.0"
    assert candidate.run_id == (run.folder / "mlflow_run_id").read_text().strip()
    back = Path(client.download_artifacts(candidate.run_id, "release-1.1.0", str(tmp_path)))
    assert (back / "index.json").read_bytes() == (second.folder / "index.json").read_bytes()
    assert Release.open(back).version == "1.1.0"


def test_a_release_of_an_untracked_run_is_not_registered(recipe: Recipe, run: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="tracking was off"):
        register(make_release(recipe, tmp_path / "release", "1.0.0"), recipe.runs)


def test_a_registry_that_does_not_answer_leaves_the_release_whole(
    recipe: Recipe, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    (run.folder / "mlflow_run_id").write_text("0123456789abcdef0123456789abcdef\n")
    release = make_release(recipe, tmp_path / "release", "1.0.0")
    with pytest.raises(RunError, match="is whole"):
        register(release, recipe.runs)
    assert Release.open(release.folder).version == "1.0.0"


def test_a_moved_release_takes_the_base_from_where_it_is_told(recipe: Recipe, run: Run, tmp_path: Path) -> None:
    release = make_release(recipe, tmp_path / "release", "1.0.0")
    moved = tmp_path / "far" / "away"
    moved.parent.mkdir()
    shutil.move(release.folder, moved)
    assert Release.open(moved).backbone_config(str(BASE)).model == str(BASE)
