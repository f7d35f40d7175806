"""The jobs of a stage on any cluster: they run in order, each as one task, an array of tasks, or training ranks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

JobKind = Literal["one", "array", "ranks"]
Stage = Literal["prepare", "cache", "pretrain", "evaluate", "compare", "release", "all"]
RECIPE_FILE = "recipe.yaml"
"""File name of the recipe in the submission folder."""
ALL_STAGES: tuple[Stage, ...] = ("prepare", "cache", "pretrain", "evaluate", "release")
"""Stages of ``--stage all``, in order; ``cache`` only if the recipe trains on cached features. Evaluation precedes the
release, which needs its scores for the model card and for the minimum scores in ``publish.min_scores``."""


@dataclass(frozen=True)
class Job:
    """A job; it starts when the job before it has succeeded."""

    name: str
    kind: JobKind
    args: tuple[str, ...]
    """Command and options of ``e4t`` without the recipe. A task of an array also gets its rank and their number."""
    size: int = 1
    """Number of tasks of an array, or of nodes of training ranks."""

    @property
    def needs_gpu(self) -> bool:
        """Whether the job can use a GPU."""
        return self.args[0] != "prepare"

    def command(self, recipe: str) -> list[str]:
        """Return the arguments of ``e4t``."""
        return [self.args[0], "--recipe", recipe, *self.args[1:]]


def jobs_for_stage(
    stage: Stage, *, nodes: int, array_size: int, use_feature_cache: bool, extra_args: Sequence[str] = ()
) -> list[Job]:
    """Return the jobs of a stage in order; ``extra_args`` are appended to the command of the last one."""
    stages = [each for each in ALL_STAGES if each != "cache" or use_feature_cache] if stage == "all" else [stage]
    jobs = [job for each in stages for job in _jobs(each, nodes, array_size)]
    last = jobs[-1]
    return [*jobs[:-1], Job(last.name, last.kind, (*last.args, *extra_args), last.size)]


def _jobs(stage: Stage, nodes: int, array_size: int) -> list[Job]:
    work_args = ("--stage", "work")
    if stage == "prepare":
        return [
            Job("prepare-plan", "one", ("prepare", "--stage", "plan")),
            Job("prepare-work", "array", ("prepare", *work_args), array_size),
            Job("prepare-merge", "one", ("prepare", "--stage", "merge")),
        ]
    if stage == "cache":
        return [Job("cache", "array", ("cache", *work_args), array_size)]
    if stage == "compare":
        return [
            Job("compare-work", "array", ("compare", *work_args), array_size),
            Job("compare-present", "one", ("compare", "--stage", "present")),
        ]
    if stage == "pretrain":
        return [Job("pretrain", "ranks", ("pretrain",), nodes)]
    return [Job(stage, "one", (stage,))]
