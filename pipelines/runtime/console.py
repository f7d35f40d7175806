"""Console output: the shared rich console and a progress bar."""

import sys
import threading

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipelines.runtime.standard_streams import discard_stdout

NON_TTY_WIDTH = 120
"""Line width in columns when stdout is a file or a pipe; a terminal has its own width."""


class _Console(Console):
    """Console that leaves a BrokenPipeError to the caller; rich itself would exit."""

    def on_broken_pipe(self) -> None:
        """Raise the BrokenPipeError, but not in the thread that refreshes a progress bar: the command continues."""
        if threading.current_thread() is threading.main_thread():
            raise  # noqa: PLE0704 - called where the exception is handled
        discard_stdout()


console = _Console(highlight=False, width=None if sys.stdout.isatty() else NON_TTY_WIDTH)


class ProgressBar:
    """A progress bar that can be passed to stages as their ``on_progress(done, total)`` callback."""

    def __init__(self, description: str) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.progress, self.description = Progress(*columns, console=console), description

    def __enter__(self) -> "ProgressBar":
        self.progress.start()
        self.task = self.progress.add_task(self.description, total=None)
        return self

    def __call__(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` items are finished."""
        self.progress.update(self.task, completed=done, total=total)

    def print(self, text: str) -> None:
        """Print a line above the bar."""
        self.progress.console.print(text, soft_wrap=True)

    def __exit__(self, *_: object) -> None:
        self.progress.stop()


def print_lines(*lines: str) -> None:
    """Print lines as they are: not wrapped, without markup, and without control characters of untrusted names."""
    for line in lines:
        safe = "".join(letter if letter.isprintable() else "?" for letter in line)
        console.print(safe, markup=False, emoji=False, highlight=False, soft_wrap=True)
