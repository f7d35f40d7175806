"""Commands in the documentation have options that exist."""

import re
from functools import cache
from pathlib import Path

import pytest

from pipelines.cli.commands import find_command
from pipelines.cli.common import CommandParser
from pipelines.cli.help import HELP_OPTIONS

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND_LINE = re.compile(r"\be4t ([a-z][^`#)\n]*)")


@cache
def options_of(names: tuple[str, ...]) -> set[str]:
    parser = CommandParser(exit_on_error=False)
    find_command(list(names))[1].add_arguments(parser)
    return {*parser._option_string_actions, *HELP_OPTIONS}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_option_of_a_documented_command_exists(page: Path) -> None:
    unknown = []
    for line in COMMAND_LINE.findall(page.read_text()):
        names, command = find_command(line.split())
        own_words = line.partition(" -- ")[0]  # the words behind it are options of the last job of a submission
        for option in re.findall(r"(?<!\S)(--[a-z][\w-]*(?:\.\w+)*)", own_words):
            if not command.subcommands and option not in options_of(tuple(names)):
                unknown.append(f"e4t {' '.join(names)} {option}")
    assert unknown == []
