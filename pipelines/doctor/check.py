"""What a check is asked and what it says."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_prep.credentials import redact

State = Literal["ok", "note", "broken"]
"""``note`` is worth knowing, but the job can be done; ``broken`` is needed and does not work."""
GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Needs:
    """The job that the machine is looked at for."""

    runs: Path
    """Folder of all runs."""
    nproc: int
    """Ranks that would train here."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A line of the screen. Secrets in URLs are masked, whoever said them."""

    what: str
    state: State
    found: str
    remedy: str = ""
    """What to do if it is not ok."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "found", redact(" ".join(self.found.split())))


@dataclass(frozen=True, kw_only=True)
class Check:
    """Something to look at."""

    name: str
    look: Callable[[Needs], list[Finding]]
    """A function of a module, as it runs in a process of its own; what it raises is what it found."""
    seconds: float
    """After so many it is ended."""
    needed: bool = True
    """Whether nothing goes without; then failing is broken, else it is a note."""
    remedy: str
    """What to do when it fails or does not answer."""
    alone: bool = False
    """Looked at before the others start, as it measures what they would disturb."""

    def failed(self, reason: str) -> list[Finding]:
        """That it found nothing, and why."""
        state: State = "broken" if self.needed else "note"
        return [Finding(what=self.name, state=state, found=reason, remedy=self.remedy)]
