"""End-to-end tests of the lineage: all stages run once by command, then every step of the lineage is verified.

Running the stages takes about a minute on two cores.
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
from tests.shared import copy_mlflow_database
from tests.warm_process import run_command

E4T = Callable[..., tuple[int, str, str]]
pytestmark = [pytest.mark.timeout(900)]
CHAMPION = "models:/small@champion"
STAGES = ("prepare", "pretrain", "evaluate", "release", "promote")


@dataclass
class Chain:
    """The files that the commands wrote."""

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
        """Return the only MLflow run of a stage."""
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
        "evaluate": {"num_concepts": 1, "num_grid_concepts": 1, "num_prompts": 1, "steps": [0, 1]},
        "publish": {"min_scores": {"identity_similarity": -1.0}},
    }
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(settings))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        patch.setenv("E4T_CACHE", str(folder / "cache"))
        copy_mlflow_database(folder / "runs")
        assert main(["prepare", "--recipe", str(recipe)]) == 0
        result = run_command("pretrain", "--recipe", recipe)
        assert result.code == 0, result
        for stage, *words in (["evaluate"], ["release", "--allow-dirty"]):
            assert main([stage, "--recipe", str(recipe), *words]) == 0
        assert main(["promote", "small", "1", "--alias", "champion", "--runs", str(folder / "runs")]) == 0
        yield Chain(folder)


@contextmanager
def flipped(path: Path) -> Iterator[None]:
    """Flip one bit in the middle of a file."""
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    try:
        yield
    finally:
        path.write_bytes(data)


@contextmanager
def removed(path: Path) -> Iterator[None]:
    hidden = path.rename(path.with_name(f"hidden-{path.name}"))
    try:
        yield
    finally:
        hidden.rename(path)


def parse_statuses(out: str) -> dict[str, str]:
    """Return the status of each step by its name."""
    return {line.split()[0]: line.rpartition("[")[2].rstrip("]") for line in out.splitlines()}


def run_lineage(e4t: E4T, chain: Chain, location: str | Path = CHAMPION) -> tuple[int, dict[str, str], str]:
    """Run ``e4t lineage``; return exit code, statuses and output."""
    code, out, err = e4t("lineage", location, "--runs", chain.runs)
    assert "e4t: " not in err
    return code, parse_statuses(out), out


def test_every_step_is_verified_back_to_the_sources(chain: Chain, e4t: E4T) -> None:
    code, statuses, out = run_lineage(e4t, chain)
    assert code == 0
    verified = ("version", "release", "evaluate", "checkpoint", "pretraining", "base", "data", "prepare")
    assert statuses == dict.fromkeys(verified, "verified") | {"code": "recorded", "sources": "recorded"}
    assert "small 1, aliases candidate, champion" in out
    assert Manifest.load(chain.folder / "shards").digest[:12] in out
    assert out.splitlines()[-1].startswith("sources ")


def test_a_release_folder_has_the_same_lineage(chain: Chain, e4t: E4T) -> None:
    code, statuses, _ = run_lineage(e4t, chain, chain.release)
    assert code == 0
    assert {status for name, status in statuses.items() if name not in ("code", "sources")} == {"verified"}
    assert "version" not in statuses


def test_a_flipped_bit_in_a_shard_is_found(chain: Chain, e4t: E4T) -> None:
    shard = sorted((chain.folder / "shards").rglob("*.tar"))[-1]
    with flipped(shard):
        code, statuses, out = run_lineage(e4t, chain)
    assert (code, statuses["data"]) == (1, "DIFFERS")
    assert shard.name in out
    assert statuses["release"] == statuses["checkpoint"] == "verified"


def test_another_dataset_at_the_same_path_is_found(chain: Chain, e4t: E4T) -> None:
    manifest = chain.folder / "shards" / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text.replace('"domain": "person"', '"domain": "persons"'))
    try:
        code, statuses, _ = run_lineage(e4t, chain)
    finally:
        manifest.write_text(text)
    assert (code, statuses["data"]) == (1, "DIFFERS")


def test_a_deleted_dataset_and_a_deleted_checkpoint_are_unreachable(chain: Chain, e4t: E4T) -> None:
    with removed(chain.folder / "shards"), removed(chain.run / "checkpoints" / "step_00000004"):
        code, statuses, _ = run_lineage(e4t, chain)
    assert code == 0, "unreachable steps are not errors"
    assert (statuses["data"], statuses["checkpoint"]) == ("unreachable", "unreachable")
    assert statuses["release"] == statuses["pretraining"] == "verified"


@pytest.mark.parametrize("file", ["trainable/domain_encoder.safetensors", "trainable/weight_offsets.safetensors"])
def test_a_modified_or_incomplete_checkpoint_differs(chain: Chain, e4t: E4T, file: str) -> None:
    path = chain.run / "checkpoints" / "step_00000004" / file
    for damage in (flipped, removed):
        with damage(path):
            code, statuses, _ = run_lineage(e4t, chain)
        assert (code, statuses["checkpoint"]) == (1, "DIFFERS")


@pytest.mark.parametrize("file", ["README.md", "index.json", "figure.png", "domain_encoder/model.safetensors"])
def test_a_modified_release_file_is_named(chain: Chain, e4t: E4T, file: str) -> None:
    content = (chain.release / file).read_bytes()
    with (chain.release / file).open("ab") as opened:
        opened.write(b" ")
    try:
        code, statuses, out = run_lineage(e4t, chain, chain.release)
    finally:
        (chain.release / file).write_bytes(content)
    assert (code, statuses["release"]) == (1, "DIFFERS")
    assert f"modified files {file}" in out


def test_a_version_with_another_recorded_digest_differs(chain: Chain, e4t: E4T) -> None:
    digest = Release.open(chain.release).content_digest
    run_lineage(e4t, chain)  # downloads the version before its tag is changed
    chain.client.set_model_version_tag("small", "1", "e4t.weights", "0" * 64)
    try:
        code, statuses, _ = run_lineage(e4t, chain)
    finally:
        chain.client.set_model_version_tag("small", "1", "e4t.weights", digest)
    assert (code, statuses["version"]) == (1, "DIFFERS")


def test_without_mlflow_all_other_steps_are_verified(chain: Chain, e4t: E4T, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    code, statuses, _ = run_lineage(e4t, chain, chain.release)
    assert code == 0
    assert statuses["pretraining"] == statuses["prepare"] == "unreachable"
    assert statuses["release"] == statuses["checkpoint"] == statuses["base"] == statuses["data"] == "verified"
    code, out, err = e4t("lineage", CHAMPION, "--runs", chain.runs)
    assert (code, out) == (1, "")
    assert err.startswith(f"e4t: cannot get {CHAMPION} from MLflow")
    assert err.count("\n") == 1


def test_a_server_that_fails_in_between_is_unreachable(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = lineage_of(str(chain.release), chain.runs)
    assert next(steps).name == "release"
    monkeypatch.setattr(MlflowClient, "search_runs", _raise)
    assert {step.name: step.status for step in steps}["prepare"] == "unreachable"


def _raise(*_: object) -> None:
    raise ConnectionError("gone")


def test_another_base_model_differs_and_a_missing_one_is_unreachable(
    chain: Chain, e4t: E4T, family_folders: Path
) -> None:
    for base, expected_code, status in (
        (family_folders / "sd1", 1, "DIFFERS"),
        (chain.folder / "none", 0, "unreachable"),
    ):
        code, out, _ = e4t("lineage", chain.release, "--base", base, "--runs", chain.runs)
        assert (code, parse_statuses(out)["base"]) == (expected_code, status)


def test_the_lineage_of_the_shipped_release_works_without_its_run_folder(e4t: E4T, tmp_path: Path) -> None:
    code, out, err = e4t("lineage", SHIPPED.with_name("faces"), "--runs", tmp_path / "runs")
    assert (code, "e4t: " in err) == (0, False)
    assert parse_statuses(out)["release"] in ("recorded", "verified")
    assert parse_statuses(out)["data"] == "unreachable"


def test_the_lineage_of_an_imported_release_ends_at_its_source_files(
    e4t: E4T, family_folders: Path, tmp_path: Path
) -> None:
    base = family_folders / "sd1"
    checkpoint = write_checkpoint(tmp_path / "checkpoint", base)
    assert e4t("import", "mkshing", checkpoint, "--output", tmp_path / "out", "--image-encoder", base / "clip")[0] == 0
    code, out, err = e4t("lineage", tmp_path / "out", "--runs", tmp_path / "runs")
    assert (code, "e4t: " in err) == (0, False)
    assert parse_statuses(out) == {"release": "verified", "imported": "recorded", "base": "recorded"}
    assert "mkshing/e4t-diffusion: config.json " in out


def test_a_release_without_weights_is_reported_in_one_line(e4t: E4T, chain: Chain, tmp_path: Path) -> None:
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


def test_the_dataset_is_an_input_of_the_prepare_and_pretrain_runs(chain: Chain) -> None:
    digest = Manifest.load(chain.folder / "shards").digest
    for stage in ("prepare", "pretrain"):
        run = chain.stage(stage)
        [data] = run.inputs.dataset_inputs
        assert (data.dataset.name, data.dataset.digest) == ("person", digest[:36])
        assert run.data.tags["e4t.data_manifest"] == digest


def test_the_pretrain_run_records_base_model_checkpoints_and_samples(chain: Chain) -> None:
    run = chain.stage("pretrain")
    assert run.data.tags["e4t.base.weights"]
    assert run.data.tags["e4t.checkpoints"].splitlines()[-1] == str(chain.run / "checkpoints" / "step_00000004")
    assert [file.path for file in chain.client.list_artifacts(run.info.run_id, "samples")] == [
        "samples/step_00000004.png"
    ]


def test_the_pretrain_run_records_system_metrics_at_every_logged_step(chain: Chain) -> None:
    run = chain.stage("pretrain")
    for name in ("cpu_utilization_percentage", "system_memory_usage_megabytes", "disk_usage_percentage"):
        history = chain.client.get_metric_history(run.info.run_id, f"system/{socket.gethostname()}/{name}")
        assert [metric.step for metric in history] == [1, 2, 3, 4]


def test_the_evaluate_run_has_scores_by_steps_and_files_and_is_tagged_on_the_version(chain: Chain) -> None:
    run = chain.stage("evaluate")
    assert [m.step for m in chain.client.get_metric_history(run.info.run_id, "pretrained/identity_similarity")] == [
        0,
        1,
    ]
    files = {file.path for file in chain.client.list_artifacts(run.info.run_id)}
    assert {"grid.png", "report.json", "scores.csv", "table.md"} <= files
    assert chain.client.get_model_version("small", "1").tags["evaluate_run_id"] == run.info.run_id
