"""The run folder: made once, taken up by the same recipe, refused to another."""

import json
import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from data_prep.config import PrepareConfig
from e4t import ConfigError
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
def _no_handlers_left() -> Iterator[None]:
    before = list(logging.getLogger("e4t").handlers)
    yield
    for handler in logging.getLogger("e4t").handlers[len(before) :]:
        handler.close()
        logging.getLogger("e4t").removeHandler(handler)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_folder_holds_the_resolved_recipe_and_where_it_runs(recipe: Recipe) -> None:
    run = Run.open(recipe)
    written = yaml.safe_load((run.folder / "recipe.yaml").read_text())
    assert run.folder == Path(recipe.runs) / "faces"
    assert written == recipe.to_dict()
    assert written["pretrain"]["batch_size"] == PretrainConfig().global_batch_size
    environment = json.loads((run.folder / "environment.json").read_text())
    assert {"host", "python", "torch", "deepspeed", "code"} <= environment.keys()
    assert all((run.folder / name).is_dir() for name in ("logs", "samples", "checkpoints"))


def test_the_same_recipe_takes_the_folder_up(recipe: Recipe) -> None:
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
    assert "pretrain.learning_rate: 1.6e-05 there, 1.0 now" in message
    assert "seed: 0 there, 1 now" in message
    assert "batch_size" not in message
    assert "--accept-changes" in message
    assert yaml.safe_load((Path(recipe.runs) / "faces" / "recipe.yaml").read_text()) == recipe.to_dict()


def test_another_recipe_goes_on_where_changes_are_accepted(recipe: Recipe) -> None:
    Run.open(recipe)
    other = replace(recipe, seed=1)
    run = Run.open(other, allow_config_change=True)
    assert yaml.safe_load((run.folder / "recipe.yaml").read_text())["seed"] == 1
    Run.open(other)


def test_every_rank_refuses_another_recipe(recipe: Recipe) -> None:
    Run.open(recipe)
    with pytest.raises(ConfigError, match="seed"):
        Run.open(replace(recipe, seed=1), rank=3)


def test_settings_that_leave_the_weights_alone_may_change(recipe: Recipe) -> None:
    Run.open(recipe)
    later = replace(recipe, pretrain=replace(recipe.pretrain, log_every=1, keep=5))
    assert yaml.safe_load((Run.open(later).folder / "recipe.yaml").read_text())["pretrain"]["keep"] == 5


@pytest.mark.parametrize(("decay", "may"), [("constant", True), ("cosine", False)])
def test_more_steps_are_allowed_only_if_the_schedule_does_not_depend_on_them(
    recipe: Recipe, decay: str, may: bool
) -> None:
    recipe = replace(recipe, pretrain=replace(recipe.pretrain, decay=decay))
    Run.open(recipe)
    longer = replace(recipe, pretrain=replace(recipe.pretrain, steps=200))
    if may:
        Run.open(longer)
    else:
        with pytest.raises(ConfigError, match=r"pretrain\.steps"):
            Run.open(longer)


def test_a_rank_keeps_a_record_of_its_own_steps(recipe: Recipe) -> None:
    Run.open(recipe)
    for rank in (0, 2):
        run = Run.open(recipe, rank)
        for step in (1, 2):
            run.log_step(step=step, loss=0.5 * step + rank)
    logs = Path(recipe.runs) / "faces" / "logs"
    assert [(line["step"], line["loss"]) for line in lines(logs / "rank_0.jsonl")] == [(1, 0.5), (2, 1.0)]
    assert [(line["step"], line["loss"]) for line in lines(logs / "rank_2.jsonl")] == [(1, 2.5), (2, 3.0)]


def test_only_rank_0_writes_what_is_of_the_whole_run(recipe: Recipe) -> None:
    run = Run.open(recipe, rank=1)
    run.log_metrics(step=1, loss=0.5)
    run.heartbeat(1)
    assert not run.folder.exists()


def test_the_heartbeat_says_where_the_run_is(recipe: Recipe) -> None:
    run = Run.open(recipe)
    run.heartbeat(1)
    run.heartbeat(7)
    assert json.loads((run.folder / "heartbeat.json").read_text())["step"] == 7
    assert not list(run.folder.glob(".*"))


@pytest.mark.usefixtures("_no_handlers_left")
def test_each_rank_keeps_a_log_of_its_own(recipe: Recipe) -> None:
    run = Run.open(recipe, rank=2)
    run.log_to_file()
    logging.getLogger("e4t").warning("picture %s is odd", "000017")
    assert (run.folder / "logs" / "rank_2.log").read_text().endswith("picture 000017 is odd\n")


def test_the_code_has_the_revision_of_its_checkout() -> None:
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        pytest.skip("not a checkout")
    assert re.fullmatch(r"[0-9a-f]{40}(-changed)?", code_revision())
