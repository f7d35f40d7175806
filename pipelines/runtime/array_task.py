"""Rank and world size of one task of an array: from the command line, from SLURM, or from a Kubernetes Indexed Job."""

import os
from collections.abc import Mapping

from e4t_errors import ConfigError

COMPLETIONS = "JOB_COMPLETIONS"
"""Environment variable with the number of completions of an Indexed Job. `e4t submit k8s` sets it; Kubernetes itself
sets only JOB_COMPLETION_INDEX."""


def rank_and_world_size(
    rank: int | None, world_size: int | None, environment: Mapping[str, str] = os.environ
) -> tuple[int, int]:
    """Return the rank and world size of this process.

    What is None comes from the scheduler; without one, it is rank 0 of 1. Raises ConfigError if they do not fit, or if
    the scheduler does not say how many tasks there are.
    """
    if rank is None or world_size is None:
        scheduled_rank, scheduled_size = _scheduled(world_size, environment)
        rank = scheduled_rank if rank is None else rank
        world_size = scheduled_size if world_size is None else world_size
    if not 0 <= rank < world_size:
        raise ConfigError(
            f"rank {rank} is not valid for a world size of {world_size}: ranks are 0 to {world_size - 1}; set --rank "
            "and --world-size, or the size of the job array"
        )
    return rank, world_size


def _scheduled(world_size: int | None, environment: Mapping[str, str]) -> tuple[int, int]:
    if "SLURM_ARRAY_TASK_ID" in environment:
        return _slurm_task(world_size, environment)
    if "JOB_COMPLETION_INDEX" in environment:
        size = _number(environment, COMPLETIONS) if world_size is None else world_size
        return _number(environment, "JOB_COMPLETION_INDEX"), size
    return 0, 1


def _slurm_task(world_size: int | None, environment: Mapping[str, str]) -> tuple[int, int]:
    """Return rank and size of a SLURM array. If a world size is given, ranks are the array's own numbers.

    So ``sbatch --array=3,7`` with ``--world-size 16`` repeats two of 16 ranks.
    """
    task = _number(environment, "SLURM_ARRAY_TASK_ID")
    if world_size is not None:
        return task, world_size
    first, last, step, count = (_number(environment, f"SLURM_ARRAY_TASK_{name}") for name in _SLURM_NAMES)
    if step < 1 or (last - first) // step + 1 != count or (task - first) % step:
        raise ConfigError(
            f"the SLURM array has gaps ({count} tasks, from {first} to {last} in steps of {step}), so that task {task} "
            "has no rank; set --world-size to use the numbers of the tasks as ranks, or submit an array without gaps"
        )
    return (task - first) // step, count


_SLURM_NAMES = ("MIN", "MAX", "STEP", "COUNT")


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    if not text.isdecimal():
        problem = f"is {text!r}, which is not a number" if text else "is not set"
        raise ConfigError(f"{name} {problem}; set it, or give --rank and --world-size")
    return int(text)
