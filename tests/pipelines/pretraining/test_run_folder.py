"""A run folder is created once, resumed with the same recipe, and refused with another one."""

import json
import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from data_prep.config import PrepareConfig
from e4t_errors import ConfigError
from encoder.config import BackboneConfig, ConditioningConfig
from pipelines.config.pretraining import PretrainConfig
from pipelines.config.recipe import Recipe
from pipelines.pretraining.run_folder import Run
from pipelines.tracking.environment import code_revision


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return Recipe(
        name="faces",
        runs=str(tmp_path / "runs"),
        base=BackboneConfig(model="models/base"),
        data=PrepareConfig(source="data/faces", output="data/shards", domain="person"),
        conditioning=ConditioningConfig(domain_word="person"),
        pretrain=PretrainConfig(max_steps=100, lr_schedule="cosine"),
    )


@pytest.fixture
def _log_handlers_removed() -> Iterator[None]:
    before = list(logging.getLogger("e4t").handlers)
    yield
    for handler in logging.getLogger("e4t").handlers[len(before) :]:
        handler.close()
        logging.getLogger("e4t").removeHandler(handler)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_folder_holds_the_resolved_recipe_and_the_environment(recipe: Recipe) -> None:
    run = Run.open(recipe)
    written = yaml.safe_load((run.folder / "recipe.yaml").read_text())
    assert run.folder == Path(recipe.runs) / "faces"
    assert written == recipe.to_dict()
    assert written["pretrain"]["global_batch_size"] == PretrainConfig().global_batch_size
    environment = json.loads((run.folder / "environment.json").read_text())
    assert {"host", "python", "torch", "deepspeed", "code"} <= environment.keys()
    assert all((run.folder / name).is_dir() for name in ("logs", "samples", "checkpoints"))


def test_the_same_recipe_resumes_the_run(recipe: Recipe) -> None:
    Run.open(recipe).log_metrics(step=1, loss=0.5)
    Run.open(recipe).log_metrics(step=2, loss=0.25)
    written = lines(Path(recipe.runs) / "faces" / "metrics.jsonl")
    assert [(line["step"], line["loss"]) for line in written] == [(1, 0.5), (2, 0.25)]
    assert written[0]["time"] <= written[1]["time"]


def test_another_recipe_is_refused_with_the_difference(recipe: Recipe) -> None:
    Run.open(recipe)
    other = replace(recipe, seed=1, pretrain=replace(recipe.pretrain, learning_rate=1.0))
    with pytest.raises(ConfigError) as caught:
        Run.open(other)
    message = str(caught.value)
    assert "pretrain.learning_rate: 1.6e-05 before, 1.0 now" in message
    assert "seed: 0 before, 1 now" in message
    assert "global_batch_size" not in message
    assert "--allow-config-change" in message
    assert yaml.safe_load((Path(recipe.runs) / "faces" / "recipe.yaml").read_text()) == recipe.to_dict()


def test_another_recipe_resumes_the_run_if_changes_are_allowed(recipe: Recipe) -> None:
    Run.open(recipe)
    other = replace(recipe, seed=1)
    run = Run.open(other, allow_config_change=True)
    assert yaml.safe_load((run.folder / "recipe.yaml").read_text())["seed"] == 1
    Run.open(other)


def test_every_rank_refuses_another_recipe(recipe: Recipe) -> None:
    Run.open(recipe)
    with pytest.raises(ConfigError, match="seed"):
        Run.open(replace(recipe, seed=1), rank=3)


def test_a_run_of_an_earlier_version_is_refused_in_one_line(recipe: Recipe) -> None:
    settings = recipe.to_dict()
    settings["pretrain"]["steps"] = settings["pretrain"].pop("max_steps")
    recipe.folder.mkdir(parents=True)
    (recipe.folder / "recipe.yaml").write_text(yaml.safe_dump(settings))
    for allow_config_change in (False, True):
        with pytest.raises(ConfigError, match="holds a run of an earlier version of e4t") as caught:
            Run.open(recipe, allow_config_change=allow_config_change)
        assert "\n" not in str(caught.value)


def test_settings_that_do_not_affect_the_weights_may_change(recipe: Recipe) -> None:
    Run.open(recipe)
    later = replace(recipe, pretrain=replace(recipe.pretrain, log_every=1, keep_last=5))
    assert yaml.safe_load((Run.open(later).folder / "recipe.yaml").read_text())["pretrain"]["keep_last"] == 5


@pytest.mark.parametrize(("lr_schedule", "allowed"), [("constant", True), ("cosine", False)])
def test_max_steps_may_change_only_if_the_learning_rate_does_not_depend_on_it(
    recipe: Recipe, lr_schedule: str, allowed: bool
) -> None:
    recipe = replace(recipe, pretrain=replace(recipe.pretrain, lr_schedule=lr_schedule))
    Run.open(recipe)
    longer = replace(recipe, pretrain=replace(recipe.pretrain, max_steps=200))
    if allowed:
        Run.open(longer)
    else:
        with pytest.raises(ConfigError, match=r"pretrain\.max_steps: 100 before, 200 now"):
            Run.open(longer)


def test_each_rank_records_its_own_steps(recipe: Recipe) -> None:
    Run.open(recipe)
    for rank in (0, 2):
        run = Run.open(recipe, rank)
        for step in (1, 2):
            run.log_step(step=step, loss=0.5 * step + rank)
    logs = Path(recipe.runs) / "faces" / "logs"
    assert [(line["step"], line["loss"]) for line in lines(logs / "rank_0.jsonl")] == [(1, 0.5), (2, 1.0)]
    assert [(line["step"], line["loss"]) for line in lines(logs / "rank_2.jsonl")] == [(1, 2.5), (2, 3.0)]


def test_only_rank_0_writes_metrics_and_heartbeat(recipe: Recipe) -> None:
    run = Run.open(recipe, rank=1)
    run.log_metrics(step=1, loss=0.5)
    run.heartbeat(1)
    assert not run.folder.exists()


def test_the_heartbeat_holds_the_current_step(recipe: Recipe) -> None:
    run = Run.open(recipe)
    run.heartbeat(1)
    run.heartbeat(7)
    assert json.loads((run.folder / "heartbeat.json").read_text())["step"] == 7
    assert not list(run.folder.glob(".*"))


@pytest.mark.usefixtures("_log_handlers_removed")
def test_each_rank_writes_its_own_log(recipe: Recipe) -> None:
    run = Run.open(recipe, rank=2)
    run.log_to_file()
    logging.getLogger("e4t").warning("image %s is odd", "000017")
    assert (run.folder / "logs" / "rank_2.log").read_text().endswith("image 000017 is odd\n")


def test_the_code_revision_is_that_of_the_checkout() -> None:
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        pytest.skip("not a checkout")
    assert re.fullmatch(r"[0-9a-f]{40}(-changed)?", code_revision())
