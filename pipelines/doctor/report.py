"""Format check results as a table."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from pipelines.doctor.check import CheckResult

STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def format_results(results: Sequence[CheckResult]) -> Group:
    """Build a table with one row per result, the remedy below each detail, and a final verdict."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    table.add_column("check", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("detail", overflow="fold")
    for result in results:
        text = Text(result.detail)
        if result.remedy:
            text.append(f"\n-> {result.remedy}", style="italic")
        table.add_row(result.name, Text(result.status, style=STYLES[result.status]), text)
    return Group(table, verdict(results))


def verdict(results: Sequence[CheckResult]) -> Text:
    """Return one line that tells whether this machine can run the job."""
    failed = [each.name for each in results if each.status == "fail"]
    if failed:
        return Text(
            f"failed: {', '.join(dict.fromkeys(failed))}; follow the arrows, then run e4t doctor again", style="red"
        )
    return Text("this machine can run the job", style="green")
