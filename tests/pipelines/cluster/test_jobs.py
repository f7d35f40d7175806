from pathlib import Path
from typing import get_args

import pytest

from pipelines.cli.command_line import parse_command_line
from pipelines.cluster.jobs import Stage, jobs_for_stage


@pytest.mark.parametrize("stage", get_args(Stage))
def test_every_job_of_a_stage_is_a_command_of_e4t_with_the_recipe(stage: Stage) -> None:
    for job in jobs_for_stage(stage, nodes=2, array_size=4, use_feature_cache=True):
        assert job.command("recipe.yaml")[1:3] == ["--recipe", "recipe.yaml"]


def test_all_stages_run_from_prepare_to_release_in_order() -> None:
    names = [job.name for job in jobs_for_stage("all", nodes=2, array_size=4, use_feature_cache=True)]
    data_jobs, training_jobs = (
        ["prepare-plan", "prepare-work", "prepare-merge", "cache"],
        ["pretrain", "evaluate", "release"],
    )
    assert names == data_jobs + training_jobs


def test_features_are_cached_only_for_a_recipe_that_trains_on_them() -> None:
    assert "cache" not in [job.name for job in jobs_for_stage("all", nodes=1, array_size=1, use_feature_cache=False)]


def test_nodes_apply_to_training_and_the_array_size_to_shared_work() -> None:
    sizes = {job.name: job.size for job in jobs_for_stage("all", nodes=2, array_size=4, use_feature_cache=True)}
    assert (sizes["pretrain"], sizes["prepare-work"], sizes["cache"], sizes["release"]) == (2, 4, 4, 1)


def test_a_task_of_an_array_gets_its_rank_from_the_scheduler() -> None:
    (job,) = jobs_for_stage("cache", nodes=1, array_size=6, use_feature_cache=True)
    assert (job.args, job.size) == (("cache", "--stage", "work"), 6)


def test_extra_arguments_go_to_the_last_job() -> None:
    *others, last = jobs_for_stage(
        "all", nodes=1, array_size=1, use_feature_cache=False, extra_args=["--version", "1.2.0"]
    )
    assert last.args == ("release", "--version", "1.2.0")
    assert not any("1.2.0" in job.args for job in others)


@pytest.mark.parametrize("stage", get_args(Stage))
def test_e4t_accepts_the_command_of_every_job(stage: Stage, recipe: Path) -> None:
    for job in jobs_for_stage(stage, nodes=2, array_size=4, use_feature_cache=True):
        share = ["--rank", "3", "--world-size", "4"] if job.kind == "array" else []
        command, arguments = parse_command_line([*job.command(str(recipe)), *share])
        assert command.name == job.args[0]
        if job.kind == "array":
            assert (arguments.stage, arguments.rank, arguments.world_size) == ("work", 3, 4)
