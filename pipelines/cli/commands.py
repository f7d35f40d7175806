"""The registry of commands: what ``e4t --help`` lists, in the order in which people use them."""

from pipelines.cli.cluster import STATUS, SUBMIT
from pipelines.cli.common import Command
from pipelines.cli.data import CACHE, PREPARE
from pipelines.cli.demo import DEMO, QUICKSTART
from pipelines.cli.evaluation import COMPARE, EVALUATE
from pipelines.cli.release import IMPORT, LINEAGE, PROMOTE, RELEASE
from pipelines.cli.training import DOCTOR, PLAN, PRETRAIN
from pipelines.cli.tuning import APP, EXPORT, GENERATE, TUNE

COMMAND_GROUPS: dict[str, tuple[Command, ...]] = {
    "data": (PREPARE, CACHE),
    "training": (DOCTOR, PLAN, PRETRAIN, EVALUATE, COMPARE),
    "release": (RELEASE, PROMOTE, LINEAGE, IMPORT),
    "use": (TUNE, GENERATE, EXPORT, APP),
    "cluster": (SUBMIT, STATUS),
    "demo": (QUICKSTART, DEMO),
}
ROOT = Command(
    name="e4t",
    summary="Domain encoders for Stable Diffusion.",
    subcommands=tuple(command for group in COMMAND_GROUPS.values() for command in group),
)


def find_command(arguments: list[str]) -> tuple[list[str], Command]:
    """Follow the leading words of a command line, and return them with the command that they name."""
    names, command = [], ROOT
    for word in arguments:
        match = next((each for each in command.subcommands if each.name == word), None)
        if match is None:
            break
        names.append(word)
        command = match
    return names, command
