from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from jsonargparse import Namespace

import pipelines.cli.command_line as cli
from pipelines.cli import commands
from pipelines.cli.common import parse_recipe
from pipelines.cli.main import main
from pipelines.cluster.jobs import RECIPE_FILE
from pipelines.cluster.submission import snapshot_files
from pipelines.config.recipe import Recipe

AMBIGUOUS = [
    "null",
    "1e5",
    "n",
    "true",
    "- a",
    "{b: c}",
    "a: b",
    "# c",
    "${HOME}",
    "$(id)",
    "`id`",
    "it's",
    '"',
    "a\nb\n",
    "\x85",
]
TEXTS = some.sampled_from(AMBIGUOUS) | some.text(some.characters(exclude_categories=["Cs"]), min_size=1)


def recipe_read_by_job(path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """Return the recipe that a job reads from that file."""
    recipes: list[Recipe] = []

    def record_recipe(arguments: Namespace, _: list[str]) -> None:
        """Record the recipe instead of making a release."""
        recipes.append(parse_recipe(arguments))

    commands_with_recorder = tuple(
        replace(each, run=record_recipe) if each.name == "release" else each for each in commands.ROOT.subcommands
    )
    root = replace(commands.ROOT, subcommands=commands_with_recorder)
    for module in (commands, cli):
        monkeypatch.setattr(module, "ROOT", root)
    assert main(["release", "--recipe", str(path)]) == 0
    return recipes[0]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=some.lists(TEXTS, min_size=4))
def test_any_value_of_a_recipe_reaches_the_job_unchanged(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, texts: list[str]
) -> None:
    before = recipe_read_by_job(recipe, monkeypatch)
    changed = replace(
        before,
        name=texts[0],
        publish=replace(before.publish, license=texts[1], data_statement=texts[2]),
        conditioning=replace(
            before.conditioning, domain_word=texts[3], templates=tuple(f"{text} *s" for text in texts)
        ),
    )
    submitted = tmp_path / "sent.yaml"
    submitted.write_text(snapshot_files(changed)[RECIPE_FILE])
    assert recipe_read_by_job(submitted, monkeypatch) == changed


def test_a_dry_run_prints_the_exact_text(
    small_recipe: dict[str, Any], tmp_path: Path, e4t: Callable[..., tuple[int, str, str]]
) -> None:
    path = tmp_path / RECIPE_FILE
    path.write_text(yaml.safe_dump(small_recipe | {"name": ":smile:\t[bold]"}))
    out = e4t("submit", "slurm", "--recipe", path, "--stage", "release", "--dry-run")[1]
    assert "runs/:smile:\t[bold]/submissions/001-release/submit.sh\n#!/usr/bin/env bash\n" in out
