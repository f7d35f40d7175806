"""The ``e4t`` command: one subcommand a stage, recipes as YAML, dotted overrides, errors in one line."""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from data_prep.errors import DataError
from e4t import ConfigError
from encoder.errors import ModelError
from pipelines.cli.commands import COMMANDS
from pipelines.errors import EXIT_CONFIG_ERROR, EXIT_FAILURE, EXIT_OK, RunError
from pipelines.runtime.logging import configure_logging

RUNS = "runs"
"""Where runs are unless a recipe says otherwise."""
RECIPES = Path(__file__).parents[1] / "recipes"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code: 0 done, 1 failed, 75 start it again, 78 the recipe is wrong."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    configure_logging()
    try:
        return _run(arguments)
    except (ConfigError, ArgumentError) as error:
        return _complain(error, EXIT_CONFIG_ERROR)
    except (ModelError, DataError, RunError) as error:
        return _complain(error, EXIT_FAILURE)


def _complain(error: Exception, code: int) -> int:
    if int(os.environ.get("RANK", "0")) == 0:
        line = " ".join(str(error).split())
        # Names in files of somebody else's could move the cursor or rename the window.
        sys.stderr.write("".join(letter if letter.isprintable() else "?" for letter in f"e4t: {line}") + "\n")
    return code


def _run(arguments: list[str]) -> int:
    parser = _parser(arguments)
    if not arguments:
        parser.print_help()
        return EXIT_OK
    parsed = parser.parse_args(_with_recipe_paths(arguments))
    _, run = COMMANDS[parsed.subcommand]
    return run(parsed[parsed.subcommand], arguments) or EXIT_OK


def _with_recipe_paths(arguments: list[str]) -> list[str]:
    """``--recipe NAME`` may name a file or one of the recipes that come with e4t; quickstart has one of its own."""
    paths: list[str] = []
    if arguments[0] == "quickstart" and "--recipe" not in arguments:
        arguments = ["quickstart", "--recipe", "quickstart", *arguments[1:]]
    for before, argument in zip([""] + arguments, arguments, strict=False):
        packaged = RECIPES / f"{argument}.yaml"
        if before == "--recipe" and not Path(argument).exists():
            if not packaged.exists():
                names = ", ".join(sorted(path.stem for path in RECIPES.glob("*.yaml")))
                raise ConfigError(f"recipe {argument}: no such file, and not one that comes with e4t ({names})")
            argument = str(packaged)
        paths.append(_data_of(argument) if (before, arguments[0]) == ("--recipe", "prepare") else argument)
    return paths


def _data_of(recipe: str) -> str:
    """The part of a recipe that shards are made by: `e4t prepare` works without the others."""
    from pipelines.config.recipe import Recipe

    try:
        settings = yaml.safe_load(Path(recipe).read_text()) or {}
        unknown = sorted(settings.keys() - {field.name for field in fields(Recipe)})
        if unknown:
            raise ConfigError(
                f"recipe {recipe} has unknown keys: {', '.join(map(str, unknown))}; remove or rename them"
            )
        return json.dumps({"data": settings["data"], "runs": settings.get("runs", RUNS)})
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"recipe {recipe} has no data to prepare ({reason}); give data.source and the like"
        ) from error


def _parser(arguments: list[str]) -> ArgumentParser:
    parser = ArgumentParser(prog="e4t", description="Domain encoders for Stable Diffusion.", exit_on_error=False)
    subcommands = parser.add_subcommands()
    for name, (describe, run) in COMMANDS.items():
        sub = ArgumentParser(exit_on_error=False, description=run.__doc__)
        subcommands.add_subcommand(name, sub, help=(run.__doc__ or "").splitlines()[0])
        if name in arguments:  # the others' imports would cost seconds
            describe(sub)
    return parser
