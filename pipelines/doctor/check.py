"""What a check is asked and what it says."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_prep.credentials import redact

Status = Literal["ok", "note", "broken"]
"""``note`` is worth knowing, but the job can be done; ``broken`` is needed and does not work."""
GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class JobRequirements:
    """The job that the machine is looked at for."""

    runs: Path
    """Folder of all runs."""
    nproc: int
    """Ranks that would train here."""


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """A line of the screen. Secrets in URLs are masked, whoever said them."""

    name: str
    status: Status
    detail: str
    remedy: str = ""
    """What to do if it is not ok."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "found", redact(" ".join(self.detail.split())))


@dataclass(frozen=True, kw_only=True)
class Check:
    """Something to look at."""

    name: str
    run: Callable[[JobRequirements], list[CheckResult]]
    """A function of a module, as it runs in a process of its own; what it raises is what it found."""
    timeout_seconds: float
    """After so many it is ended."""
    required: bool = True
    """Whether nothing goes without; then failing is broken, else it is a note."""
    remedy: str
    """What to do when it fails or does not answer."""
    exclusive: bool = False
    """Looked at before the others start, as it measures what they would disturb."""

    def failure(self, reason: str) -> list[CheckResult]:
        """That it found nothing, and why."""
        status: Status = "broken" if self.required else "note"
        return [CheckResult(name=self.name, status=status, detail=reason, remedy=self.remedy)]
