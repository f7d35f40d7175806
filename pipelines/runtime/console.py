"""What a person sees in the terminal."""

import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    pass

NON_TTY_WIDTH = 120
"""Columns of what is written to a file or a pipe; a terminal has its own."""
console = Console(highlight=False, width=None if sys.stdout.isatty() else NON_TTY_WIDTH)


class ProgressBar:
    """A progress bar as the ``(done, total)`` callback that the stages take."""

    def __init__(self, description: str) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.progress, self.description = Progress(*columns, console=console), description

    def __enter__(self) -> "ProgressBar":
        self.progress.start()
        self.task = self.progress.add_task(self.description, total=None)
        return self

    def __call__(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` are done."""
        self.progress.update(self.task, completed=done, total=total)

    def print(self, text: str) -> None:
        """A line above the bar."""
        self.progress.console.print(text, soft_wrap=True)

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
