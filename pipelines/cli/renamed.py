"""Options and commands that have another name now: for one release each ends in a line that gives the new name."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import yaml

from e4t_errors import ConfigError
from pipelines.config.renamed import RENAMED_SITE_KEYS, check_recipe_names, check_site_names

RENAMED_COMMANDS = {"faces": "demo faces", "emoji": "demo emoji", "base": "demo base"}

_WORLD_SIZE = {"--world": "--world-size"}
_SUBMIT = {
    "--job": "--stage",
    "--tasks": "--array-size",
    "--extra": "`--` at the end of the command, followed by the words",
}
RENAMED_OPTIONS: dict[str, dict[str, str]] = {
    "prepare": _WORLD_SIZE,
    "cache": _WORLD_SIZE,
    "compare": _WORLD_SIZE,
    "pretrain": {"--accept-changes": "--allow-config-change"},
    "release": {"--by": "--metric", "--register": "--no-register"},
    "promote": {"--to": "--alias"},
    "submit slurm": _SUBMIT,
    "submit k8s": _SUBMIT,
    "tune": {
        "--start": "--init-concept",
        "--each": "--separate-concepts",
        "--regulariser": "--regularization-weight",
        "--word": "--token-type",
        "--identifier": "--rare-token",
        "--train": "--trainable",
        "--text-encoder": "--train-text-encoder",
        "--prior-pictures": "--num-class-images",
        "--prior-weight": "--prior-loss-weight",
        "--stored-bits": "--delta-bits",
    },
    "generate": {"--steps": "--num-inference-steps", "--guidance": "--guidance-scale"},
    "export": {"--called": "--token"},
    "import diffusers": {"--identifier": "--rare-token"},
    "import mkshing": {"--clip": "--image-encoder"},
    "demo faces": {"--identities": "--num-identities", "--pictures": "--images-per-identity"},
    "demo base": {
        "--pictures": "--image-dir",
        "--start": "--init-from",
        "--recogniser": "--recognizer",
        "--recogniser-faces": "--recognizer-faces",
    },
}
"""Old to new option of each command; old options in snake_case are found under their spelling in kebab-case."""

RENAMED_OPTION_VALUES: dict[str, dict[str, dict[str, str]]] = {
    "submit slurm": {"--stage": {"pipeline": "all"}},
    "submit k8s": {"--stage": {"pipeline": "all"}},
    "release": {"--checkpoint": {"newest": "latest"}},
    "tune": {"--token-type": {"identifier": "rare_token"}, "--trainable": {"nothing": "none"}},
    "demo base": {"--parts": {"recogniser": "recognizer"}},
}
"""Old to new value of each option, by command and option."""

FLAGS: dict[str, set[str]] = {
    "pretrain": {"--allow-config-change", "--profile"},
    "release": {"--allow-dirty", "--no-register", "--private"},
    "submit slurm": {"--dry-run"},
    "submit k8s": {"--dry-run"},
    "tune": {"--separate-concepts", "--train-text-encoder", "--gradient-checkpointing"},
}
"""Options that took ``true`` or ``false`` and are flags now, under their new names."""


def check_command_names(words: Sequence[str]) -> None:
    """Refuse a command line that begins with a command which has moved. Raises ConfigError with the new words."""
    if words and words[0] in RENAMED_COMMANDS:
        raise ConfigError(f"`e4t {words[0]}` is now `e4t {RENAMED_COMMANDS[words[0]]}`")


def check_option_names(command: str, words: Sequence[str]) -> None:
    """Refuse options, recipe keys and values of earlier versions on the command line of ``command``.

    Raises:
        ConfigError: names the new option, key or value in one line.
    """
    for option, value in _options(words):
        name, dot, key = option.partition(".")
        if dot:
            _check_key(command, name, key, value)
            continue
        kebab = option.replace("_", "-")
        new = RENAMED_OPTIONS.get(command, {}).get(kebab, kebab)
        hint = _flag_hint(option, new, value) if new in FLAGS.get(command, ()) else ""
        if new != option or hint:
            raise ConfigError(f"{hint or f'{option} is now {new}'}; see `e4t {command} --help`")
        values = RENAMED_OPTION_VALUES.get(command, {}).get(option, {})
        for old in (word for word in values if word in value.strip("[] ").replace(",", " ").split()):
            raise ConfigError(f"{option} {old} is now {option} {values[old]}")
        if value.startswith("{") and isinstance(mapping := _parsed(value), dict):
            _check_section(option.removeprefix("--"), mapping, "command line")


def _options(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield each option with its value, "" if none follows."""
    for word, following in pairwise([*words, ""]):
        if word.startswith("--") and word != "--":
            option, equals, value = word.partition("=")
            yield option, value if equals else "" if following.startswith("--") else following


def _flag_hint(option: str, new: str, value: str) -> str:
    """Return how to write a flag that was given a value, "" if it was given none."""
    given = value.lower() in ("true", "false", "yes", "no")
    if not given and option == new:
        return ""
    wanted = value.lower() not in ("false", "no")
    if new == "--no-register":
        wanted = not wanted
    head = f"{option} {value}".rstrip() if given else option
    return f"{head} is now the flag {new}, without a value" if wanted else f"{head} is the default now: leave it out"


def _check_key(command: str, name: str, key: str, value: str) -> None:
    section = name.removeprefix("--")
    if command == "demo base":
        new = RENAMED_OPTIONS[command].get(name, name)
        if new != name:
            raise ConfigError(f"{name}.{key} is now {new}.{key}")
        return
    nested: Any = _parsed(value)
    for part in reversed(key.rstrip("+").split(".")):
        nested = {part: nested}
    _check_section(section, nested, "command line", command)


def _check_section(section: str, settings: dict[str, Any], location: str, command: str = "") -> None:
    scheduler = command.removeprefix("submit ")
    if section == "site" and scheduler in RENAMED_SITE_KEYS:
        check_site_names(scheduler, settings, "--site")
    else:
        check_recipe_names({section: settings}, location)


def _parsed(value: str) -> Any:  # noqa: ANN401 - any YAML
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        return value
