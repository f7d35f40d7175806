"""Plot similarity to the concept over similarity to the prompt, and over tuning time."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from pipelines.evaluation.figure import save_figure
from pipelines.evaluation.metrics import (
    ATTRIBUTE_ACCURACY,
    CONCEPT_SIMILARITY,
    PROMPT_SIMILARITY,
    RECOGNIZER_SIMILARITY,
)
from pipelines.evaluation.report import REFERENCE, Estimate, Report, Row, score_label

TRADE_OFF, SIMILARITY_BY_TIME = "trade-off", "similarity-by-seconds"
MARKERS = "osD^vP*Xph<>"


def draw_plots(report: Report, folder: Path) -> list[Path]:
    """Write both plots to ``folder`` as PNG and PDF."""
    concept = RECOGNIZER_SIMILARITY if RECOGNIZER_SIMILARITY in report.columns else CONCEPT_SIMILARITY
    # The CLIP of the tiny base hardly distinguishes prompts, but the tiny base has an attribute classifier.
    prompt = ATTRIBUTE_ACCURACY if ATTRIBUTE_ACCURACY in report.columns else PROMPT_SIMILARITY
    curves = _group_by_system(report.rows)
    return [*_plot_trade_off(folder, curves, concept, prompt), *_plot_time(folder, curves, concept)]


def _group_by_system(rows: Sequence[Row]) -> dict[str, list[Row]]:
    curves: dict[str, list[Row]] = {}
    for row in rows:
        curves.setdefault(row.system, []).append(row)
    return curves


def _plot_trade_off(folder: Path, curves: dict[str, list[Row]], concept: str, prompt: str) -> list[Path]:
    figure = Figure(figsize=(5.2, 4.8), layout="constrained")
    axes = figure.subplots()
    for index, (name, curve) in enumerate(curves.items()):
        x, y = ([row.scores[score] for row in curve] for score in (prompt, concept))
        _plot_curve(axes, name, [each.mean for each in x], y, index)
        axes.errorbar(x[-1].mean, y[-1].mean, xerr=_error_bars(x[-1]), color=_color(name, index), lw=0.8)
    axes.set_xlabel(f"{score_label(prompt)} \N{RIGHTWARDS ARROW}")
    axes.set_ylabel(f"{score_label(concept)} \N{RIGHTWARDS ARROW}")
    return _finish(figure, axes, folder / TRADE_OFF)


def _plot_time(folder: Path, curves: dict[str, list[Row]], concept: str) -> list[Path]:
    figure = Figure(figsize=(5.2, 4.8), layout="constrained")
    axes = figure.subplots()
    for index, (name, curve) in enumerate(curves.items()):
        timed = [row for row in curve if row.seconds.mean > 0]
        if timed:
            _plot_curve(axes, name, [row.seconds.mean for row in timed], [row.scores[concept] for row in timed], index)
        else:
            level = curve[0].scores[concept].mean
            axes.axhline(level, color=_color(name, index), lw=0.8, ls=":", label=name)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("tuning time per concept in seconds (log scale)")
    axes.set_ylabel(score_label(concept))
    return _finish(figure, axes, folder / SIMILARITY_BY_TIME)


def _plot_curve(axes: Axes, name: str, x: Sequence[float], y: Sequence[Estimate], index: int) -> None:
    """Plot a system over its numbers of tuning steps; the largest has a large marker and error bars."""
    means, color, marker = [each.mean for each in y], _color(name, index), MARKERS[index % len(MARKERS)]
    axes.plot(x, means, color=color, lw=1.2, marker=marker, ms=3, label=name)
    axes.errorbar(x[-1], means[-1], yerr=_error_bars(y[-1]), color=color, marker=marker, ms=7, lw=0.8)


def _error_bars(estimate: Estimate) -> list[list[float]]:
    return [[estimate.mean - estimate.low], [estimate.high - estimate.mean]]


def _color(name: str, index: int) -> str:
    return "black" if name == REFERENCE else f"C{index % 10}"


def _finish(figure: Figure, axes: Axes, path: Path) -> list[Path]:
    axes.grid(visible=True, lw=0.3, alpha=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=7)
    return save_figure(figure, path)
