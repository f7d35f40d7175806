"""Tables of the measurements of `e4t prepare` and the baselines; see benchmarks/data_prep/run.py."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.table import Table

FLOOR = "decode + encode"
"""Name of the contender that only decodes and encodes."""


@dataclass(frozen=True)
class Run:
    """Measurements of one run of a command."""

    seconds: float
    """Wall-clock time."""
    cpu: float
    """CPU seconds of the process and its descendants."""
    peak: int
    """Peak memory of the largest process in bytes."""


@dataclass
class Contender:
    """A command and its measurements."""

    name: str
    command: list[str]
    """Arguments with the placeholders {source} and {output}."""
    runs: list[tuple[Run, Run]] = field(default_factory=list)
    """One pair per round: the small dataset and the full one."""
    stored: float = 0.0
    """Stored bytes per image."""
    failure: str = ""
    """Error message if the command failed."""


@dataclass(frozen=True)
class Figures:
    """Figures of a contender, one value per round."""

    rate: list[float]
    """Images per second, without startup."""
    cpu: list[float]
    """CPU milliseconds per image, without startup."""
    start: list[float]
    """Seconds for the small dataset, mostly startup."""
    peak: list[float]
    """Peak memory in bytes."""


def figures(contender: Contender, more: int) -> Figures:
    """Compute figures; ``more`` is the number of images that the full dataset has more than the small one."""
    pairs = contender.runs
    return Figures(
        # With few images, the noise of startup can exceed the time for the images.
        rate=[more / max(whole.seconds - small.seconds, 1e-3) for small, whole in pairs],
        cpu=[1000 * (whole.cpu - small.cpu) / more for small, whole in pairs],
        start=[small.seconds for small, _ in pairs],
        peak=[float(whole.peak) for _, whole in pairs],
    )


def results_table(contenders: list[Contender], more: int, title: str) -> Table:
    """Tabulate median, minimum and maximum over the rounds; ratios are computed round by round."""
    table = Table(
        title=title,
        caption=f"CPU and kB per image; median, minimum to maximum; x: relative to {contenders[0].name} of the round",
    )
    columns = ("", "images/s", "x", "CPU ms", "x", "start s", "peak MB", "kB")
    for column in columns:
        table.add_column(column, justify="left" if not column else "right")
    base = figures(contenders[0], more)
    for contender in contenders:
        if not contender.runs:
            continue
        own = figures(contender, more)
        table.add_row(
            contender.name,
            format_two_lines(own.rate, 1),
            format_two_lines(ratios(own.rate, base.rate), 2),
            format_two_lines(own.cpu, 1),
            format_two_lines(ratios(own.cpu, base.cpu), 2),
            format_two_lines(own.start, 2),
            f"{max(own.peak) / 1e6:.0f}",
            f"{contender.stored / 1e3:.0f}",
        )
    return table


def ratios(values: list[float], base: list[float]) -> list[float]:
    """Divide round by round, for the rounds that both completed."""
    return [value / one for value, one in zip(values, base, strict=False)]


def format_two_lines(values: list[float], digits: int) -> str:
    """Format the median, and below it minimum and maximum."""
    if not values:
        return "-"
    return f"{statistics.median(values):.{digits}f}\n[dim]{min(values):.{digits}f}-{max(values):.{digits}f}[/dim]"


def markdown_table(contenders: list[Contender], more: int, kind: str, processes: Sequence[int]) -> list[str]:
    """Return the Markdown table of docs/data.md: one row per number of processes, ratios round by round."""
    by_name = {one.name: figures(one, more) for one in contenders if one.runs}
    single, floor = by_name.get("e4t prepare"), by_name.get(FLOOR)
    rows = []
    for count in processes:
        e4t, baseline = (by_name.get(name + suffix(count)) for name in ("e4t prepare", "img2dataset"))
        if e4t and baseline and single and floor:
            cells = [
                kind,
                str(count),
                format_one_line(e4t.cpu, 1),
                format_one_line(baseline.cpu, 1),
                format_one_line(ratios(baseline.cpu, e4t.cpu), 2),
                format_one_line(floor.cpu, 1),
                format_one_line(ratios(e4t.cpu, floor.cpu), 2),
                format_one_line(ratios(e4t.rate, baseline.rate), 2),
                format_one_line(ratios(e4t.rate, single.rate), 2),
                f"{max(e4t.peak) / 1e6:.0f}",
            ]
            rows.append(f"| {' | '.join(cells)} |")
    columns = ("images", "processes", "CPU ms, e4t", "img2dataset", "CPU ratio", "floor", "e4t / floor")
    columns += ("images/s ratio", "vs 1 process", "peak MB")
    return [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", *rows]


def suffix(count: int) -> str:
    """Return the suffix of a contender's name for a number of processes."""
    return f", {count} processes" if count > 1 else ""


def format_one_line(values: list[float], digits: int) -> str:
    """Format median, minimum and maximum in one line."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"
