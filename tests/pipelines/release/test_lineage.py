"""From pictures to a promoted version by the real commands, and the chain back, every link of it verified.

The chain is made once: about a minute on two cores.
"""

import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

from data_prep.shards.manifest import Manifest
from encoder.releases.release import Release
from pipelines.cli.main import main
from pipelines.release.lineage import lineage_of
from pipelines.tracking.client import connect
from tests.bases import SHIPPED
from tests.mkshing import write_checkpoint
from tests.pipelines.mlflow_server import free_port

E4T = Callable[..., tuple[int, str, str]]
pytestmark = [pytest.mark.timeout(900)]
CHAMPION = "models:/small@champion"
STAGES = ("prepare", "pretrain", "evaluate", "release", "promote")


@dataclass
class Chain:
    """What the commands have left."""

    folder: Path

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def run(self) -> Path:
        return self.runs / "small"

    @property
    def release(self) -> Path:
        return self.run / "release"

    @property
    def client(self) -> MlflowClient:
        return connect(self.runs)

    def stage(self, name: str) -> Run:
        """The one run of a stage."""
        experiment = self.client.get_experiment_by_name("e4t")
        assert experiment
        [run] = self.client.search_runs([experiment.experiment_id], f"tags.`e4t.stage` = '{name}'")
        return run


@pytest.fixture(scope="module")
def chain(small_recipe: dict[str, Any], shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    folder = tmp_path_factory.mktemp("chain")
    shutil.copytree(shards, folder / "shards")
    settings = small_recipe | {
        "runs": str(folder / "runs"),
        "data": small_recipe["data"] | {"output": str(folder / "shards")},
        "evaluate": {"concepts": 1, "shown": 1, "edits": 1, "steps": [0, 1]},
        "publish": {"gate": {"likeness": -1.0}},
    }
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(settings))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        patch.setenv("E4T_CACHE", str(folder / "cache"))
        for stage, *words in (["prepare"], ["pretrain"], ["evaluate"], ["release", "--allow-dirty"]):
            assert main([stage, "--recipe", str(recipe), *words]) == 0
        assert main(["promote", "small", "1", "--alias", "champion", "--runs", str(folder / "runs")]) == 0
        yield Chain(folder)


@contextmanager
def flipped(path: Path) -> Iterator[None]:
    """A file with one bit of its middle changed."""
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    try:
        yield
    finally:
        path.write_bytes(data)


@contextmanager
def gone(path: Path) -> Iterator[None]:
    away = path.rename(path.with_name(f"away-{path.name}"))
    try:
        yield
    finally:
        away.rename(path)


def states(out: str) -> dict[str, str]:
    """State of each link, by what it is."""
    return {line.split()[0]: line.rpartition("[")[2].rstrip("]") for line in out.splitlines()}


def look(e4t: E4T, chain: Chain, place: str | Path = CHAMPION) -> tuple[int, dict[str, str], str]:
    """Exit code, states and text of ``e4t lineage``, which complains of nothing."""
    code, out, err = e4t("lineage", place, "--runs", chain.runs)
    assert "e4t: " not in err
    return code, states(out), out


def test_every_link_of_the_chain_is_verified_back_to_the_sources(chain: Chain, e4t: E4T) -> None:
    code, links, out = look(e4t, chain)
    assert code == 0
    verified = ("version", "release", "evaluate", "checkpoint", "pretraining", "base", "data", "prepare")
    assert links == dict.fromkeys(verified, "verified") | {"code": "recorded", "sources": "recorded"}
    assert "small 1, aliases candidate, champion" in out
    assert Manifest.load(chain.folder / "shards").digest[:12] in out
    assert out.splitlines()[-1].startswith("sources ")


def test_a_release_folder_has_the_same_chain(chain: Chain, e4t: E4T) -> None:
    code, links, _ = look(e4t, chain, chain.release)
    assert code == 0
    assert {state for name, state in links.items() if name not in ("code", "sources")} == {"verified"}
    assert "version" not in links


def test_one_bit_of_a_shard_is_found(chain: Chain, e4t: E4T) -> None:
    shard = sorted((chain.folder / "shards").rglob("*.tar"))[-1]
    with flipped(shard):
        code, links, out = look(e4t, chain)
    assert (code, links["data"]) == (1, "DIFFERS")
    assert shard.name in out
    assert links["release"] == links["checkpoint"] == "verified"


def test_another_set_in_its_place_is_found(chain: Chain, e4t: E4T) -> None:
    manifest = chain.folder / "shards" / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text.replace('"concept": "person"', '"concept": "persons"'))
    try:
        code, links, _ = look(e4t, chain)
    finally:
        manifest.write_text(text)
    assert (code, links["data"]) == (1, "DIFFERS")


def test_a_set_and_a_checkpoint_that_were_deleted_are_not_reached(chain: Chain, e4t: E4T) -> None:
    with gone(chain.folder / "shards"), gone(chain.run / "checkpoints" / "step_00000004"):
        code, links, _ = look(e4t, chain)
    assert code == 0, "what cannot be seen is no fault"
    assert (links["data"], links["checkpoint"]) == ("not reached", "not reached")
    assert links["release"] == links["pretraining"] == "verified"


@pytest.mark.parametrize("file", ["trainable/domain_encoder.safetensors", "trainable/weight_offsets.safetensors"])
def test_a_checkpoint_that_is_another_or_torn_differs(chain: Chain, e4t: E4T, file: str) -> None:
    path = chain.run / "checkpoints" / "step_00000004" / file
    for damage in (flipped, gone):
        with damage(path):
            code, links, _ = look(e4t, chain)
        assert (code, links["checkpoint"]) == (1, "DIFFERS")


@pytest.mark.parametrize("file", ["README.md", "index.json", "figure.png", "domain_encoder/model.safetensors"])
def test_a_release_file_that_was_altered_is_named(chain: Chain, e4t: E4T, file: str) -> None:
    text = (chain.release / file).read_bytes()
    with (chain.release / file).open("ab") as opened:
        opened.write(b" ")
    try:
        code, links, out = look(e4t, chain, chain.release)
    finally:
        (chain.release / file).write_bytes(text)
    assert (code, links["release"]) == (1, "DIFFERS")
    assert f"{file} are not as released" in out


def test_a_version_that_says_other_weights_differs(chain: Chain, e4t: E4T) -> None:
    written = Release.open(chain.release).content_digest
    look(e4t, chain)  # fetched before it is tampered with
    chain.client.set_model_version_tag("small", "1", "e4t.weights", "0" * 64)
    try:
        code, links, _ = look(e4t, chain)
    finally:
        chain.client.set_model_version_tag("small", "1", "e4t.weights", written)
    assert (code, links["version"]) == (1, "DIFFERS")


def test_without_mlflow_everything_else_is_verified(chain: Chain, e4t: E4T, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    code, links, _ = look(e4t, chain, chain.release)
    assert code == 0
    assert links["pretraining"] == links["prepare"] == "not reached"
    assert links["release"] == links["checkpoint"] == links["base"] == links["data"] == "verified"
    code, out, err = e4t("lineage", CHAMPION, "--runs", chain.runs)
    assert (code, out) == (1, "")
    assert err.startswith(f"e4t: {CHAMPION} is not to be had from MLflow")
    assert err.count("\n") == 1


def test_a_server_that_goes_away_in_the_middle_is_not_reached(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    links = lineage_of(str(chain.release), chain.runs)
    assert next(links).name == "release"
    monkeypatch.setattr(MlflowClient, "search_runs", _dies)
    assert {link.name: link.status for link in links}["prepare"] == "not reached"


def _dies(*_: object) -> None:
    raise ConnectionError("gone")


def test_another_base_differs_and_a_base_that_is_nowhere_is_not_reached(
    chain: Chain, e4t: E4T, family_folders: Path
) -> None:
    for base, code, state in ((family_folders / "sd1", 1, "DIFFERS"), (chain.folder / "none", 0, "not reached")):
        found, out, _ = e4t("lineage", chain.release, "--base", base, "--runs", chain.runs)
        assert (found, states(out)["base"]) == (code, state)


def test_a_shipped_release_has_a_chain_without_the_things_that_are_elsewhere(e4t: E4T, tmp_path: Path) -> None:
    code, out, err = e4t("lineage", SHIPPED.with_name("faces"), "--runs", tmp_path / "runs")
    assert (code, "e4t: " in err) == (0, False)
    assert states(out)["release"] in ("recorded", "verified")
    assert states(out)["data"] == "not reached"


def test_an_imported_release_goes_back_to_the_files_it_was_made_of(
    e4t: E4T, family_folders: Path, tmp_path: Path
) -> None:
    base = family_folders / "sd1"
    theirs = write_checkpoint(tmp_path / "theirs", base)
    assert e4t("import", "mkshing", theirs, "--output", tmp_path / "out", "--image-encoder", base / "clip")[0] == 0
    code, out, err = e4t("lineage", tmp_path / "out", "--runs", tmp_path / "runs")
    assert (code, "e4t: " in err) == (0, False)
    assert states(out) == {"release": "verified", "imported": "recorded", "base": "recorded"}
    assert "mkshing/e4t-diffusion: config.json " in out


def test_a_release_without_its_weights_is_one_line(e4t: E4T, chain: Chain, tmp_path: Path) -> None:
    folder = shutil.copytree(chain.release, tmp_path / "release")
    (folder / "domain_encoder" / "model.safetensors").unlink()
    code, _, err = e4t("lineage", folder, "--runs", chain.runs)
    assert code == 1
    assert err.count("\n") == 1


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_is_a_finished_run_of_one_experiment(chain: Chain, stage: str) -> None:
    assert chain.stage(stage).info.status == "FINISHED"


@pytest.mark.parametrize("stage", STAGES[:-1])
def test_the_run_of_a_stage_has_recipe_environment_and_code(chain: Chain, stage: str) -> None:
    run = chain.stage(stage)
    files = {file.path for file in chain.client.list_artifacts(run.info.run_id)}
    assert {"recipe.yaml", "environment.json"} <= files
    assert ("code.diff" in files) is run.data.tags["mlflow.source.git.commit"].endswith("-changed")
    assert run.data.tags["mlflow.source.name"] == f"e4t {stage}"
    assert run.data.params["data.domain"] == "person"


def test_the_set_is_an_input_of_the_run_that_made_it_and_of_the_run_that_read_it(chain: Chain) -> None:
    digest = Manifest.load(chain.folder / "shards").digest
    for stage in ("prepare", "pretrain"):
        run = chain.stage(stage)
        [data] = run.inputs.dataset_inputs
        assert (data.dataset.name, data.dataset.digest) == ("person", digest[:36])
        assert run.data.tags["e4t.data_manifest"] == digest


def test_training_says_its_base_its_checkpoints_and_shows_what_it_samples(chain: Chain) -> None:
    run = chain.stage("pretrain")
    assert run.data.tags["e4t.base.weights"]
    assert run.data.tags["e4t.checkpoints"].splitlines()[-1] == str(chain.run / "checkpoints" / "step_00000004")
    assert [file.path for file in chain.client.list_artifacts(run.info.run_id, "samples")] == [
        "samples/step_00000004.png"
    ]


def test_training_says_how_busy_its_node_is_at_every_report(chain: Chain) -> None:
    run = chain.stage("pretrain")
    for name in ("cpu_utilization_percentage", "system_memory_usage_megabytes", "disk_usage_percentage"):
        history = chain.client.get_metric_history(run.info.run_id, f"system/{socket.gethostname()}/{name}")
        assert [metric.step for metric in history] == [1, 2, 3, 4]


def test_an_evaluation_has_scores_by_tuning_steps_and_its_figure_and_is_named_by_the_version(chain: Chain) -> None:
    run = chain.stage("evaluate")
    assert [m.step for m in chain.client.get_metric_history(run.info.run_id, "pretrained/likeness")] == [0, 1]
    files = {file.path for file in chain.client.list_artifacts(run.info.run_id)}
    assert {"grid.png", "report.json", "scores.csv", "table.md"} <= files
    assert chain.client.get_model_version("small", "1").tags["evaluate_run_id"] == run.info.run_id
