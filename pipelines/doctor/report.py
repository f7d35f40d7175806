"""Findings as people read them."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from pipelines.doctor.check import CheckResult

STYLES = {"ok": "green", "note": "yellow", "broken": "bold red"}


def format_results(results: Sequence[CheckResult]) -> Group:
    """A row a finding, with what to do under what is not ok, then the verdict."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    table.add_column("what", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("found", overflow="fold")
    for result in results:
        text = Text(result.detail)
        if result.remedy:
            text.append(f"\n-> {result.remedy}", style="italic")
        table.add_row(result.name, Text(result.status, style=STYLES[result.status]), text)
    return Group(table, verdict(results))


def verdict(results: Sequence[CheckResult]) -> Text:
    """One line: whether the job can be done here."""
    failed = [each.name for each in results if each.status == "broken"]
    if failed:
        return Text(f"broken: {', '.join(dict.fromkeys(failed))}; do what the arrows say and look again", style="red")
    return Text("this machine can do the job", style="green")
