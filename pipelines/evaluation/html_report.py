"""The comparison as one HTML file that needs no server and no network."""

import base64
from importlib.resources import files
from pathlib import Path

import yaml
from jinja2 import Environment, StrictUndefined

from data_prep.storage.atomic import atomic_write
from pipelines.evaluation.figure import FIGURE
from pipelines.evaluation.plots import SIMILARITY_BY_TIME, TRADE_OFF
from pipelines.evaluation.report import Report
from pipelines.evaluation.statistics import REFERENCE

PAGE = "report.html"


def write_page(report: Report) -> Path:
    """Write report.html: figure, plots, table, settings and provenance, pictures inside."""
    folder = report.comparison.output
    jinja_env = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = jinja_env.from_string(files("pipelines.evaluation").joinpath("report.html.j2").read_text())
    data = report.to_dict()
    html = template.render(
        name=report.comparison.recipe.name,
        pictures={name: _data_uri(folder / f"{name}.png") for name in (FIGURE, TRADE_OFF, SIMILARITY_BY_TIME)},
        head=report.header,
        rows=[(row.system == REFERENCE, report.cells(row)) for row in report.rows],
        concepts=len(report.comparison.cases),
        split=report.comparison.recipe.evaluate.split,
        releases=data["releases"],
        environment=data["environment"],
        settings=yaml.safe_dump(data["recipe"], sort_keys=False),
        systems=[
            (system.name, system.tune_config(report.comparison.recipe.tune)) for system in report.comparison.systems
        ],
    )
    atomic_write(folder / PAGE, html)
    return folder / PAGE


def _data_uri(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
