"""A task of an array finds its rank and the number of ranks in the environment, or says what is missing."""

import pytest

from e4t_errors import ConfigError
from pipelines.runtime.array_task import rank_and_world_size


def slurm(task: int, first: int, last: int, count: int, step: int = 1) -> dict[str, str]:
    """Return the variables that SLURM sets for a task of an array."""
    numbers = {"ID": task, "MIN": first, "MAX": last, "COUNT": count, "STEP": step}
    return {f"SLURM_ARRAY_TASK_{name}": str(number) for name, number in numbers.items()}


def indexed_job(index: int, **more: str) -> dict[str, str]:
    return {"JOB_COMPLETION_INDEX": str(index), **more}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 1)),
        (slurm(3, 0, 15, 16), (3, 16)),
        (slurm(16, 1, 16, 16), (15, 16)),
        (slurm(14, 10, 18, 3, step=4), (1, 3)),
        (slurm(14, 10, 20, 3, step=4), (1, 3)),
        (slurm(5, 5, 5, 1), (0, 1)),
        (indexed_job(3, JOB_COMPLETIONS="8"), (3, 8)),
        (slurm(3, 0, 15, 16) | indexed_job(0, JOB_COMPLETIONS="2"), (3, 16)),
    ],
)
def test_the_scheduler_says_rank_and_world_size(environment: dict[str, str], expected: tuple[int, int]) -> None:
    assert rank_and_world_size(None, None, environment) == expected


def test_with_a_given_world_size_the_numbers_of_the_tasks_are_ranks() -> None:
    assert rank_and_world_size(None, 16, slurm(7, 3, 7, 2)) == (7, 16)
    assert rank_and_world_size(None, 16, indexed_job(7)) == (7, 16)


def test_a_given_rank_is_one_of_the_scheduled_world_size() -> None:
    assert rank_and_world_size(2, None, slurm(7, 0, 7, 8)) == (2, 8)


def test_given_numbers_need_no_scheduler() -> None:
    assert rank_and_world_size(2, 4, {"SLURM_ARRAY_TASK_ID": "?"}) == (2, 4)


@pytest.mark.parametrize(
    ("rank", "world_size", "environment", "message"),
    [
        (4, 4, {}, "rank 4 is not valid for a world size of 4: ranks are 0 to 3"),
        (-1, 4, {}, "rank -1 is not valid"),
        (1, None, {}, "rank 1 is not valid for a world size of 1"),
        (None, 16, slurm(16, 1, 16, 16), "rank 16 is not valid for a world size of 16"),
        (None, None, slurm(5, 1, 7, 3), r"the SLURM array has gaps \(3 tasks, from 1 to 7 in steps of 1\)"),
        (None, None, slurm(3, 0, 4, 3, step=2), "the SLURM array has gaps"),
        (None, None, slurm(3, 0, 4, 3, step=0), "the SLURM array has gaps"),
        (None, None, {"SLURM_ARRAY_TASK_ID": "3"}, "SLURM_ARRAY_TASK_MIN is not set; set it, or give --rank and"),
        (None, None, {"SLURM_ARRAY_TASK_ID": "x"}, "SLURM_ARRAY_TASK_ID is 'x', which is not a number"),
        (None, None, indexed_job(1), "JOB_COMPLETIONS is not set; set it, or give --rank and --world-size"),
        (None, 0, {}, "rank 0 is not valid for a world size of 0"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(
    rank: int | None, world_size: int | None, environment: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        rank_and_world_size(rank, world_size, environment)
