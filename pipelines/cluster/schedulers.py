"""The schedulers to which ``e4t submit`` sends stages."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from pipelines.cluster import kubernetes, slurm
from pipelines.cluster.jobs import Job
from pipelines.cluster.submission import Submission


class Scheduler(Protocol):
    """Interface of a module that submits jobs to one kind of cluster."""

    @property
    def Site(self) -> type[Any]:  # noqa: N802 - a class
        """Dataclass of the settings that differ from cluster to cluster."""

    def build_submission(
        self,
        jobs: Sequence[Job],
        site: Any,  # noqa: ANN401 - the scheduler's own Site
        folder: Path,
        run_name: str,
        snapshot: Mapping[str, str],
    ) -> Submission:
        """Render everything that is sent as files."""

    def send(self, submission: Submission) -> dict[str, list[str]]:
        """Run the submission's own commands, and return the scheduler's ids of each job. Raises RunError."""

    def job_status(self, job: str) -> str:
        """Return the state of a job as the scheduler reports it."""


SCHEDULERS: dict[str, Scheduler] = {"slurm": slurm, "k8s": kubernetes}
"""Scheduler of each name on the command line."""
