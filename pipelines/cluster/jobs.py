"""What a stage is on any cluster: jobs one after the other, each of one task, many, or ranks that train together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

JobKind = Literal["one", "array", "ranks"]
Stage = Literal["prepare", "cache", "pretrain", "evaluate", "compare", "release", "all"]
RECIPE_FILE = "recipe.yaml"
"""In the submission's folder."""
ALL_STAGES: tuple[Stage, ...] = ("prepare", "cache", "pretrain", "evaluate", "release")
"""What ``all`` sends; features are cached if the recipe trains on them. The evaluation comes before the release,
which takes its numbers into the card and is refused below the recipe's ``publish.min_scores``."""


@dataclass(frozen=True)
class Job:
    """A job; it starts when the one before it has ended well."""

    name: str
    kind: JobKind
    args: tuple[str, ...]
    """What ``e4t`` is told, without the recipe; a task of an array is also told its rank."""
    size: int = 1
    """Tasks of an array, or nodes of ranks."""

    @property
    def needs_gpu(self) -> bool:
        """Whether it has work for a GPU."""
        return self.args[0] != "prepare"

    def command(self, recipe: str) -> list[str]:
        """What ``e4t`` is told."""
        return [self.args[0], "--recipe", recipe, *self.args[1:]]


def jobs_for_stage(
    stage: Stage, *, nodes: int, array_size: int, use_feature_cache: bool, extra_args: Sequence[str] = ()
) -> list[Job]:
    """Jobs of a stage in their order; ``extra`` words go to the last."""
    stages = [each for each in ALL_STAGES if each != "cache" or use_feature_cache] if stage == "all" else [stage]
    jobs = [job for each in stages for job in _jobs(each, nodes, array_size)]
    last = jobs[-1]
    return [*jobs[:-1], Job(last.name, last.kind, (*last.args, *extra_args), last.size)]


def _jobs(stage: Stage, nodes: int, array_size: int) -> list[Job]:
    work_args = ("--stage", "work", "--world-size", str(array_size))
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
