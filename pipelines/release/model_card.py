"""Render the model cards of releases: README.md with the YAML front matter that the hub reads."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined

from encoder.placeholder import PLACEHOLDER, replace_placeholder
from pipelines.config.recipe import Recipe
from pipelines.evaluation.report import Report

FIGURE = "figure.png"


def render_card(
    recipe: Recipe, version: str, provenance: dict[str, Any], evaluation: Report | None, *, has_figure: bool
) -> str:
    """Render the card of a release that was trained with ``recipe``."""
    prompt = recipe.conditioning.templates[0]
    return _render(
        "model_card.md.j2",
        front_matter=_front_matter(recipe.base.model, recipe.publish.license),
        recipe=recipe,
        version=version,
        provenance=provenance,
        evaluation=evaluation,
        score_labels=evaluation.score_labels if evaluation else [],
        figure=FIGURE if has_figure else None,
        domain_word=recipe.conditioning.domain_word,
        prompt=prompt,
        edit_prompt=replace_placeholder(prompt, f"{PLACEHOLDER} smiling"),
    )


def render_imported_card(
    name: str, version: str, output: Path, *, project: str, base: str, prompt: str, word: str
) -> str:
    """Render the card of a release that was imported from a checkpoint of ``project``."""
    return _render(
        "imported_card.md.j2",
        front_matter=_front_matter(base),
        name=name,
        version=version,
        output=output,
        project=project,
        base=base,
        prompt=prompt,
        domain_word=word,
    )


def _front_matter(base: str, license_id: str | None = None) -> str:
    """Return the YAML header of a card; ``base_model`` is left out for local folders, which the hub cannot resolve."""
    data: dict[str, Any] = {
        **({"license": license_id} if license_id else {}),
        "library_name": "e4t",
        "tags": ["text-to-image", "personalization", "e4t", "domain-encoder"],
        **({} if Path(base).exists() else {"base_model": base}),
    }
    return yaml.safe_dump(data, sort_keys=False)


def _render(template: str, **variables: object) -> str:
    jinja_env = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)  # noqa: S701 - Markdown
    return jinja_env.from_string(files("pipelines.release").joinpath(template).read_text()).render(**variables)
