"""The model card: a README with the head that the hub reads; use, data, numbers, figure, limits, consent, licence."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined

from encoder.config import PLACEHOLDER
from pipelines.config.recipe import Recipe
from pipelines.release.gate import Evaluated

FIGURE = "figure.png"


def card(
    recipe: Recipe, version: str, provenance: dict[str, Any], evaluated: Evaluated | None, *, pictured: bool
) -> str:
    """The text of README.md."""
    head: dict[str, Any] = {
        "license": recipe.publish.licence,
        "library_name": "e4t",
        "tags": ["text-to-image", "personalization", "e4t", "domain-encoder"],
    }
    if not Path(recipe.base.model).exists():  # the hub takes its own ids only
        head["base_model"] = recipe.base.model
    strict = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)  # noqa: S701 - Markdown
    template = strict.from_string(files("pipelines.release").joinpath("model_card.md.j2").read_text())
    prompt = recipe.conditioning.templates[0]
    return template.render(
        head=yaml.safe_dump(head, sort_keys=False),
        recipe=recipe,
        version=version,
        provenance=provenance,
        evaluated=evaluated,
        figure=FIGURE if pictured else None,
        prompt=prompt,
        smiling=prompt.replace(PLACEHOLDER, f"{PLACEHOLDER} smiling"),
        word=recipe.conditioning.domain_word,
    )
