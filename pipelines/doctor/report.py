"""Findings as people read them."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from pipelines.doctor.check import Finding

STYLES = {"ok": "green", "note": "yellow", "broken": "bold red"}


def shown(findings: Sequence[Finding]) -> Group:
    """A row a finding, with what to do under what is not ok, then the verdict."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    table.add_column("what", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("found", overflow="fold")
    for each in findings:
        text = Text(each.found)
        if each.remedy:
            text.append(f"\n-> {each.remedy}", style="italic")
        table.add_row(each.what, Text(each.state, style=STYLES[each.state]), text)
    return Group(table, verdict(findings))


def verdict(findings: Sequence[Finding]) -> Text:
    """One line: whether the job can be done here."""
    broken = [each.what for each in findings if each.state == "broken"]
    if broken:
        return Text(f"broken: {', '.join(dict.fromkeys(broken))}; do what the arrows say and look again", style="red")
    return Text("this machine can do the job", style="green")
