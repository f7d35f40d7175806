"""The types of checks: their input, their result and their declaration."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_prep.credentials import redact

Status = Literal["ok", "warn", "fail"]
"""``note`` is worth knowing, but the job can be done; ``broken`` is needed and does not work."""
GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class JobRequirements:
    """The training job that the machine is checked for."""

    runs: Path
    """Folder that holds all run folders."""
    nproc: int
    """Number of ranks that would train on this machine."""


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """One row of the report. Credentials in URLs are redacted from ``detail``, whichever library produced the text."""

    name: str
    status: Status
    detail: str
    remedy: str = ""
    """What the user should do if the status is not ``ok``."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "detail", redact(" ".join(self.detail.split())))


@dataclass(frozen=True, kw_only=True)
class Check:
    """A check: a function, its time limit, and whether the job depends on it."""

    name: str
    run: Callable[[JobRequirements], list[CheckResult]]
    """Module-level function that performs the check in a separate process. An exception counts as a failed check."""
    timeout_seconds: float
    """Seconds after which the check is killed and reported as failed."""
    required: bool = True
    """Whether a job cannot run without it. A failure is reported as ``fail`` if so, else as ``warn``."""
    remedy: str
    """What the user should do when the check fails or times out."""
    exclusive: bool = False
    """Run this check alone, before the others start, because they would disturb its measurement."""

    def failure(self, reason: str) -> list[CheckResult]:
        """Build the result of a check that raised, crashed or timed out."""
        status: Status = "fail" if self.required else "warn"
        return [CheckResult(name=self.name, status=status, detail=reason, remedy=self.remedy)]
