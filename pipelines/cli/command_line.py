"""The command line of ``e4t``: subcommands, YAML recipes with dotted overrides, and errors in one line."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, Namespace

from data_prep.errors import DataError
from e4t_errors import ConfigError
from encoder.errors import ModelError
from pipelines.cli.commands import ROOT, find_command
from pipelines.cli.common import Command, CommandParser
from pipelines.cli.help import HELP_OPTIONS, overview, prepare_help, read_field_docs
from pipelines.cli.renamed import check_command_names, check_option_names
from pipelines.config.renamed import RENAMED_SITE_KEYS, check_recipe_names, check_site_names
from pipelines.errors import EXIT_CONFIG_ERROR, EXIT_FAILURE, EXIT_OK, RunError
from pipelines.runtime.logging import configure_logging

DEFAULT_RUNS = "runs"
"""Folder of all runs unless the recipe names another."""
RECIPES = Path(__file__).parents[1] / "recipes"


def run_command_line(arguments: list[str], on_start: Callable[[str], None]) -> int:
    """Run a command and return its exit code.

    ``on_start`` is called when the options are parsed, with what the command keeps when it is interrupted.
    """
    configure_logging()
    if "_ARGCOMPLETE" in os.environ:
        _complete(os.environ["COMP_LINE"][: int(os.environ["COMP_POINT"])])
    if not arguments or arguments[0] in HELP_OPTIONS:
        sys.stdout.write(overview())
        return EXIT_OK
    command, parsed = parse_command_line(arguments)
    on_start(command.kept_when_interrupted)
    return command.run(parsed, arguments) or EXIT_OK


def report_error(error: BaseException) -> int:
    """Print an expected error in one line and return the exit code. Raises any other error again."""
    if not isinstance(error, ConfigError | ArgumentError | ModelError | DataError | RunError):
        raise error
    if int(os.environ.get("RANK", "0")) == 0:
        line = " ".join(str(error).split())
        # File names from untrusted sources could contain terminal escape sequences.
        sys.stderr.write("".join(letter if letter.isprintable() else "?" for letter in f"e4t: {line}") + "\n")
    return EXIT_CONFIG_ERROR if isinstance(error, ConfigError | ArgumentError) else EXIT_FAILURE


def parse_command_line(arguments: list[str]) -> tuple[Command, Namespace]:
    """Parse the words after ``e4t``, up to ``--``, and return the command with its options.

    Raises ConfigError or jsonargparse's ArgumentError, and exits after printing a help text.
    """
    words = arguments[: arguments.index("--")] if "--" in arguments else arguments
    check_command_names(words)
    names, command = find_command(words)
    if not names:
        raise ConfigError(f"unknown command {words[0]!r}; `e4t --help` lists the commands")
    if any(word in HELP_OPTIONS for word in words):
        read_field_docs()
        parsed: Any = _build_parser(words, show_all="--help-all" in words).parse_args([*names, "--help"])
    else:
        if command.subcommands:
            choices = ", ".join(each.name for each in command.subcommands)
            raise ConfigError(f"`e4t {' '.join(names)}` needs one of: {choices}")
        check_option_names(" ".join(names), words[len(names) :])
        parsed = _build_parser(words).parse_args(_resolve_files(words, names))
    for name in names:
        parsed = parsed[name]
    assert isinstance(parsed, Namespace)  # noqa: S101 - narrows the type for mypy
    return command, parsed


def _build_parser(words: list[str], *, show_all: bool = False) -> CommandParser:
    """Build the parser of ``e4t``. Only commands among ``words`` get their options: imports would take seconds."""
    parser = CommandParser(prog="e4t", exit_on_error=False, description=ROOT.summary)
    _add_subcommands(parser, ROOT, words, [], show_all=show_all)
    return parser


def _complete(line: str) -> None:
    """Print the completions of ``line`` for the shell: argcomplete does so inside ``parse_args``, and exits.

    argcomplete does not see the options of jsonargparse's subcommands, so it gets the parser of the command at hand and
    a line without the words that name the command.
    """
    words = line.split()[1:]
    names, command = find_command(words if line.endswith(" ") else words[:-1])
    rest = line.split(maxsplit=len(names) + 1)[len(names) + 1 :]
    shortened = " ".join(["e4t", *rest]) if rest else "e4t "
    os.environ |= {"COMP_LINE": shortened, "COMP_POINT": str(len(shortened))}
    parser = CommandParser(prog="e4t", exit_on_error=False)
    if command.subcommands:
        _add_subcommands(parser, command, [], names, show_all=True)
    else:
        command.add_arguments(parser)
    parser.parse_args([])


def _add_subcommands(
    parser: CommandParser, command: Command, words: list[str], names: list[str], *, show_all: bool
) -> None:
    subparsers = parser.add_subcommands()
    for each in command.subcommands:
        sub = CommandParser(exit_on_error=False, description=each.describe())
        subparsers.add_subcommand(each.name, sub, help=each.summary)  # before levels below it, as jsonargparse wants
        if each.name in words:
            path = [*names, each.name]
            if each.subcommands:
                _add_subcommands(sub, each, words, path, show_all=show_all)
            else:
                each.add_arguments(sub)
            prepare_help(sub, path, each, show_all=show_all)


def _resolve_files(words: list[str], names: list[str]) -> list[str]:
    """Replace recipe names by paths, and refuse recipes and site files that use old names.

    ``--recipe`` takes a file or the name of a recipe in ``pipelines/recipes``; the quickstart has a default.
    """
    words = [part for word in words for part in _split_option(word)]
    if names == ["quickstart"] and "--recipe" not in words:
        words = ["quickstart", "--recipe", "quickstart", *words[1:]]
    resolved: list[str] = []
    for option, word in zip(["", *words], words, strict=False):
        if option == "--recipe":
            path = _recipe_path(word)
            recipe = _load_mapping(path)
            check_recipe_names(recipe, f"recipe {path}")
            word = _data_section(path, recipe) if names == ["prepare"] else str(path)
        if option == "--site" and names[-1] in RENAMED_SITE_KEYS and Path(word).is_file():
            check_site_names(names[-1], _load_mapping(Path(word)), f"site file {word}")
        resolved.append(word)
    return resolved


def _split_option(word: str) -> list[str]:
    option, equals, value = word.partition("=")
    return [option, value] if equals and option in ("--recipe", "--site") else [word]


def _recipe_path(name: str) -> Path:
    if Path(name).exists():
        return Path(name)
    packaged = RECIPES / f"{name}.yaml"
    if not packaged.exists():
        names = ", ".join(sorted(path.stem for path in RECIPES.glob("*.yaml")))
        raise ConfigError(f"recipe {name}: no such file, and no recipe of this name comes with e4t ({names})")
    return packaged


def _load_mapping(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text()) or {}
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not a readable YAML file ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no keys; give a YAML file of keys and values")
    return content


def _data_section(path: Path, recipe: dict[str, Any]) -> str:
    """Return the part of a recipe from which shards are made, so that `e4t prepare` works without the others."""
    from pipelines.config.recipe import Recipe

    if unknown := sorted(map(str, recipe.keys() - {field.name for field in fields(Recipe)})):
        raise ConfigError(f"recipe {path} has unknown keys: {', '.join(unknown)}; remove or rename them")
    if "data" not in recipe:
        raise ConfigError(f"recipe {path} has no section `data`; give data.source, data.output and data.domain")
    return json.dumps({"data": recipe["data"], "runs": recipe.get("runs", DEFAULT_RUNS)})
