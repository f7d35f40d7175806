from typing import get_args

import pytest

from pipelines.cluster.jobs import Stage, jobs_for_stage


@pytest.mark.parametrize("stage", get_args(Stage))
def test_every_stage_is_commands_of_e4t_on_its_recipe(stage: Stage) -> None:
    for job in jobs_for_stage(stage, nodes=2, array_size=4, use_feature_cache=True):
        assert job.command("recipe.yaml")[1:3] == ["--recipe", "recipe.yaml"]


def test_the_chain_goes_from_pictures_to_a_release_of_what_was_evaluated() -> None:
    names = [job.name for job in jobs_for_stage("all", nodes=2, array_size=4, use_feature_cache=True)]
    made, learned = ["prepare-plan", "prepare-work", "prepare-merge", "cache"], ["pretrain", "evaluate", "release"]
    assert names == made + learned


def test_features_are_cached_only_for_a_recipe_that_trains_on_them() -> None:
    assert "cache" not in [job.name for job in jobs_for_stage("all", nodes=1, array_size=1, use_feature_cache=False)]


def test_nodes_are_for_training_and_tasks_for_what_is_shared_out() -> None:
    sizes = {job.name: job.size for job in jobs_for_stage("all", nodes=2, array_size=4, use_feature_cache=True)}
    assert (sizes["pretrain"], sizes["prepare-work"], sizes["cache"], sizes["release"]) == (2, 4, 4, 1)


def test_every_task_knows_how_many_there_are() -> None:
    (job,) = jobs_for_stage("cache", nodes=1, array_size=6, use_feature_cache=True)
    assert job.args == ("cache", "--stage", "work", "--world-size", "6")


def test_more_words_go_to_the_last_job() -> None:
    *others, last = jobs_for_stage(
        "all", nodes=1, array_size=1, use_feature_cache=False, extra_args=["--version", "1.2.0"]
    )
    assert last.args == ("release", "--version", "1.2.0")
    assert not any("1.2.0" in job.args for job in others)
