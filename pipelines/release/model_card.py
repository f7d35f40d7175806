"""The model card: a README with the head that the hub reads; use, data, numbers, figure, limits, consent, licence."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined

from encoder.config import PLACEHOLDER
from pipelines.config.recipe import Recipe
from pipelines.release.gate import EvaluationReport

FIGURE = "figure.png"


def render_card(
    recipe: Recipe, version: str, provenance: dict[str, Any], evaluation: EvaluationReport | None, *, has_figure: bool
) -> str:
    """The text of README.md."""
    front_matter: dict[str, Any] = {
        "license": recipe.publish.license,
        "library_name": "e4t",
        "tags": ["text-to-image", "personalization", "e4t", "domain-encoder"],
    }
    if not Path(recipe.base.model).exists():  # the hub takes its own ids only
        front_matter["base_model"] = recipe.base.model
    jinja_env = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)  # noqa: S701 - Markdown
    template = jinja_env.from_string(files("pipelines.release").joinpath("model_card.md.j2").read_text())
    prompt = recipe.conditioning.templates[0]
    return template.render(
        head=yaml.safe_dump(front_matter, sort_keys=False),
        recipe=recipe,
        version=version,
        provenance=provenance,
        evaluated=evaluation,
        figure=FIGURE if has_figure else None,
        prompt=prompt,
        smiling=prompt.replace(PLACEHOLDER, f"{PLACEHOLDER} smiling"),
        word=recipe.conditioning.domain_word,
    )
