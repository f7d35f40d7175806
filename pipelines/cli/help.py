"""Help texts: ``e4t --help`` with commands in groups, and ``--help`` of a command without its rarer keys."""

import argparse

from jsonargparse import set_parsing_settings

from pipelines.cli.commands import COMMAND_GROUPS, ROOT
from pipelines.cli.common import Command, CommandParser

HELP_OPTIONS = ("-h", "--help", "--help-all")


def overview() -> str:
    """Return the text of ``e4t --help``."""
    lines = ["usage: e4t COMMAND [options]", "", ROOT.summary]
    for group, commands in COMMAND_GROUPS.items():
        lines += ["", f"{group}:", *(f"  {command.name:<12}{command.summary}" for command in commands)]
    lines += [
        "",
        "`e4t COMMAND --help` shows the usual options of a command, `e4t COMMAND --help-all` every recipe key.",
    ]
    return "\n".join(lines + ["New here? Run `e4t quickstart`."]) + "\n"


def read_field_docs() -> None:
    """Let parsers that are built from now on show the docstring under each dataclass field as help."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)


def prepare_help(parser: CommandParser, names: list[str], command: Command, *, show_all: bool) -> None:
    """Give the parser of a command a short usage line and, unless ``show_all``, hide its rarer keys."""
    required = [
        action for action in parser._actions if action.required and action.dest.partition(".")[0] not in parser.keys
    ]
    words = [f"{action.option_strings[0]} {_metavar(action)}" for action in required if action.option_strings]
    words += [action.dest.upper() for action in required if not action.option_strings and not command.subcommands]
    words += ["--recipe RECIPE"] if "--recipe" in parser._option_string_actions else []
    words += [f"{{{','.join(each.name for each in command.subcommands)}}}"] if command.subcommands else []
    parser.usage = " ".join(["e4t", *names, *words, "[options]"])
    hidden = 0
    for action in parser._actions:
        if action.help:
            action.help = action.help.replace("``", "`")
        if not show_all and action.dest in parser.keys and action.dest not in command.usual_keys and command.usual_keys:
            hidden += action.help != argparse.SUPPRESS
            action.help = argparse.SUPPRESS
    for group in parser._action_groups:
        group.title = (group.title or "").replace("``", "`")
        if all(action.help == argparse.SUPPRESS for action in group._group_actions):
            group.description = None
    if hidden:
        parser.epilog = f"{hidden} more keys: e4t {' '.join(names)} --help-all"


def _metavar(action: argparse.Action) -> str:
    return str(action.metavar or action.dest.upper())
