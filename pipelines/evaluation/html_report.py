"""Write a comparison as one HTML file that needs neither a server nor a network connection."""

import base64
from importlib.resources import files
from pathlib import Path

import yaml
from jinja2 import Environment, StrictUndefined

from data_prep.storage.atomic import atomic_write
from pipelines.evaluation.figure import FIGURE
from pipelines.evaluation.plots import SIMILARITY_BY_TIME, TRADE_OFF
from pipelines.evaluation.report import REFERENCE, Report
from pipelines.evaluation.runner import Comparison

HTML_FILE = "report.html"


def write_html(report: Report, comparison: Comparison) -> Path:
    """Write report.html with the figure and plots embedded, the table, the settings and the provenance."""
    folder, recipe = comparison.output, comparison.recipe
    jinja_env = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = jinja_env.from_string(files("pipelines.evaluation").joinpath("report.html.j2").read_text())
    html = template.render(
        name=recipe.name,
        images={name: _data_uri(folder / f"{name}.png") for name in (FIGURE, TRADE_OFF, SIMILARITY_BY_TIME)},
        header=report.header,
        rows=[(row.system == REFERENCE, report.cells(row)) for row in report.rows],
        num_concepts=len(report.concepts),
        split=recipe.evaluate.split,
        releases=report.releases,
        environment=report.environment,
        recipe=yaml.safe_dump(report.recipe, sort_keys=False),
        systems=[(system.name, system.tune_config(recipe.tune)) for system in comparison.systems],
    )
    atomic_write(folder / HTML_FILE, html)
    return folder / HTML_FILE


def _data_uri(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
