"""Plots of what systems trade: closeness to the concept against closeness to the prompt, and against time."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from pipelines.evaluation.figure import write
from pipelines.evaluation.metrics import CONCEPT, OBEYED, PROMPT, RECOGNISED
from pipelines.evaluation.report import Report
from pipelines.evaluation.statistics import TRUTH, Estimate, Row

TRADE, TIME = "trade-off", "similarity-by-seconds"
MARKERS = "osD^vP*Xph<>"


def draw_plots(report: Report) -> list[Path]:
    """Write both as PNG and PDF."""
    concept = RECOGNISED if RECOGNISED in report.columns else CONCEPT
    prompt = OBEYED if OBEYED in report.columns else PROMPT  # a tiny CLIP hardly tells prompts apart
    curves = _curves(report.rows)
    return [*_trade(report, curves, concept, prompt), *_time(report, curves, concept)]


def _curves(rows: Sequence[Row]) -> dict[str, list[Row]]:
    curves: dict[str, list[Row]] = {}
    for row in rows:
        curves.setdefault(row.system, []).append(row)
    return curves


def _trade(report: Report, curves: dict[str, list[Row]], concept: str, prompt: str) -> list[Path]:
    figure = Figure(figsize=(5.2, 4.8), layout="constrained")
    axes = figure.subplots()
    for place, (name, curve) in enumerate(curves.items()):
        across, up = ([row.scores[score] for row in curve] for score in (prompt, concept))
        _curve(axes, name, [each.mean for each in across], up, place)
        axes.errorbar(across[-1].mean, up[-1].mean, xerr=_bars(across[-1]), color=_color(name, place), lw=0.8)
    axes.set_xlabel(f"{prompt}: closer to the prompt \N{RIGHTWARDS ARROW}")
    axes.set_ylabel(f"{concept}: closer to the concept \N{RIGHTWARDS ARROW}")
    return _finish(figure, axes, report.comparison.output / TRADE)


def _time(report: Report, curves: dict[str, list[Row]], concept: str) -> list[Path]:
    figure = Figure(figsize=(5.2, 4.8), layout="constrained")
    axes = figure.subplots()
    for place, (name, curve) in enumerate(curves.items()):
        timed = [row for row in curve if row.seconds.mean > 0]
        if timed:
            _curve(axes, name, [row.seconds.mean for row in timed], [row.scores[concept] for row in timed], place)
        else:
            level = curve[0].scores[concept].mean
            axes.axhline(level, color=_color(name, place), lw=0.8, ls=":", label=name)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("seconds of tuning for a concept (log)")
    axes.set_ylabel(concept)
    return _finish(figure, axes, report.comparison.output / TIME)


def _curve(axes: Axes, name: str, across: Sequence[float], up: Sequence[Estimate], place: int) -> None:
    """Over its steps; the last has the large marker."""
    means, color, marker = [each.mean for each in up], _color(name, place), MARKERS[place % len(MARKERS)]
    axes.plot(across, means, color=color, lw=1.2, marker=marker, ms=3, label=name)
    axes.errorbar(across[-1], means[-1], yerr=_bars(up[-1]), color=color, marker=marker, ms=7, lw=0.8)


def _bars(estimate: Estimate) -> list[list[float]]:
    return [[estimate.mean - estimate.low], [estimate.high - estimate.mean]]


def _color(name: str, place: int) -> str:
    return "black" if name == TRUTH else f"C{place % 10}"


def _finish(figure: Figure, axes: Axes, path: Path) -> list[Path]:
    axes.grid(visible=True, lw=0.3, alpha=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=7)
    return write(figure, path)
