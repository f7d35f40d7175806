"""The comparison as one HTML file that needs no server and no network."""

import base64
from importlib.resources import files
from pathlib import Path

import yaml
from jinja2 import Environment, StrictUndefined

from data_prep.storage.atomic import atomic_write
from pipelines.evaluation.figure import FIGURE
from pipelines.evaluation.plots import TIME, TRADE
from pipelines.evaluation.report import Report
from pipelines.evaluation.statistics import TRUTH

PAGE = "report.html"


def write_page(report: Report) -> Path:
    """Write report.html: figure, plots, table, settings and provenance, pictures inside."""
    folder = report.comparison.output
    strict = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = strict.from_string(files("pipelines.evaluation").joinpath("report.html.j2").read_text())
    plain = report.plain()
    html = template.render(
        name=report.comparison.recipe.name,
        pictures={name: _inline(folder / f"{name}.png") for name in (FIGURE, TRADE, TIME)},
        head=report.head,
        rows=[(row.system == TRUTH, report.cells(row)) for row in report.rows],
        concepts=len(report.comparison.cases),
        split=report.comparison.recipe.evaluate.split,
        releases=plain["releases"],
        environment=plain["environment"],
        settings=yaml.safe_dump(plain["recipe"], sort_keys=False),
        systems=[(system.name, system.tuning(report.comparison.recipe.tune)) for system in report.comparison.systems],
    )
    atomic_write(folder / PAGE, html)
    return folder / PAGE


def _inline(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
