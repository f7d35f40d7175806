"""What `e4t prepare` and its rivals took, as tables: see benchmarks/data_prep/run.py for how to measure it."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.table import Table


@dataclass(frozen=True)
class Run:
    """One process from start to end."""

    seconds: float
    cpu: float
    """Seconds of the process and all it waited for."""
    peak: int
    """Bytes of the largest process."""


@dataclass
class Contender:
    """A command, and what was measured of it."""

    name: str
    command: list[str]
    """With {source} and {output}."""
    runs: list[tuple[Run, Run]] = field(default_factory=list)
    """A round each: the small set, the whole one."""
    stored: float = 0.0
    """Bytes a picture."""
    failure: str = ""
    """Why there is nothing to show."""


@dataclass(frozen=True)
class Figures:
    """Of a contender, a round each."""

    rate: list[float]
    """Pictures a second, without the start."""
    cpu: list[float]
    """CPU milliseconds a picture, without the start."""
    start: list[float]
    """Seconds that the small set takes."""
    peak: list[float]
    """Bytes."""


def figures(contender: Contender, more: int) -> Figures:
    """``more``: how many pictures the whole set has more than the small one."""
    pairs = contender.runs
    return Figures(
        # On a tiny set the noise of the start can be more than the pictures take.
        rate=[more / max(whole.seconds - small.seconds, 1e-3) for small, whole in pairs],
        cpu=[1000 * (whole.cpu - small.cpu) / more for small, whole in pairs],
        start=[small.seconds for small, _ in pairs],
        peak=[float(whole.peak) for _, whole in pairs],
    )


def table(found: list[Contender], more: int, title: str) -> Table:
    """Median, and minimum to maximum over the rounds; ratios are taken round by round."""
    shown = Table(
        title=title,
        caption="CPU and kB a picture; median, and minimum to maximum; x: times the Pillow loop of the same round",
    )
    columns = ("", "pictures/s", "x", "CPU ms", "x", "start s", "peak MB", "kB")
    for column in columns:
        shown.add_column(column, justify="left" if not column else "right")
    base = figures(found[0], more)
    for contender in found:
        if not contender.runs:
            continue
        own = figures(contender, more)
        shown.add_row(
            contender.name,
            spread(own.rate, 1),
            spread(ratios(own.rate, base.rate), 2),
            spread(own.cpu, 1),
            spread(ratios(own.cpu, base.cpu), 2),
            spread(own.start, 2),
            f"{max(own.peak) / 1e6:.0f}",
            f"{contender.stored / 1e3:.0f}",
        )
    return shown


def ratios(values: list[float], base: list[float]) -> list[float]:
    """Round by round, as far as both got."""
    return [value / one for value, one in zip(values, base, strict=False)]


def spread(values: list[float], digits: int) -> str:
    """Median, and below it minimum to maximum."""
    if not values:
        return "-"
    return f"{statistics.median(values):.{digits}f}\n[dim]{min(values):.{digits}f}-{max(values):.{digits}f}[/dim]"


def against(found: list[Contender], more: int, kind: str, processes: Sequence[int]) -> list[str]:
    """The lines of docs/data.md: a row for each number of processes, ratios round by round."""
    named = {one.name: figures(one, more) for one in found if one.runs}
    alone = named.get("e4t prepare")
    rows = []
    for count in processes:
        ours, theirs = (named.get(name + of(count)) for name in ("e4t prepare", "img2dataset"))
        if ours and theirs and alone:
            cells = [
                kind,
                str(count),
                span(ours.cpu, 1),
                span(theirs.cpu, 1),
                span(ratios(theirs.cpu, ours.cpu), 2),
                span(ratios(ours.rate, theirs.rate), 2),
                span(ratios(ours.rate, alone.rate), 2),
                f"{max(ours.peak) / 1e6:.0f}",
            ]
            rows.append(f"| {' | '.join(cells)} |")
    head = "| pictures | processes | CPU ms, e4t | img2dataset | CPU, times | pictures/s, times | of one | peak MB |"
    return [head, "|---" * 8 + "|", *rows]


def of(count: int) -> str:
    """What a contender of so many processes has behind its name."""
    return f", {count} processes" if count > 1 else ""


def span(values: list[float], digits: int) -> str:
    """Median, and minimum to maximum, in a line."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"
