"""Every old command, option and value on the command line ends in one line with its new name, and exit code 78."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.cli.commands import find_command
from pipelines.cli.common import CommandParser
from pipelines.cli.renamed import FLAGS, RENAMED_COMMANDS, RENAMED_OPTION_VALUES, RENAMED_OPTIONS
from pipelines.config.renamed import RENAMED_KEYS

E4T = Callable[..., tuple[int, str, str]]
OPTIONS = [
    (command, old, new)
    for command, options in RENAMED_OPTIONS.items()
    for old, new in options.items()
    if old != "--register"  # its opposite is the new flag: tested below
]
FLAG_OPTIONS = [(command, flag) for command, flags in FLAGS.items() for flag in sorted(flags)]
RECIPE_KEYS = [
    (f"{section}.{old}", f"{section}.{new}")
    for section, keys in RENAMED_KEYS.items()
    if not section.startswith("compare.") and section != "publish.min_scores"
    for old, new in keys.items()
]


def refusal(result: tuple[int, str, str]) -> str:
    """The one line with which a command ended as wrongly configured."""
    code, _, err = result
    assert code == 78
    assert err.startswith("e4t: ")
    assert err.count("\n") == 1
    return err.removeprefix("e4t: ").removesuffix("\n")


def options_of(command: str) -> set[str]:
    parser = CommandParser(exit_on_error=False)
    find_command(command.split())[1].add_arguments(parser)
    return set(parser._option_string_actions)


@pytest.mark.parametrize(("old", "new"), RENAMED_COMMANDS.items())
def test_a_command_that_has_moved_is_refused_with_its_new_words(e4t: E4T, old: str, new: str) -> None:
    assert refusal(e4t(old, "--output", "x")) == f"`e4t {old}` is now `e4t {new}`"
    assert find_command(new.split())[0] == new.split()


@pytest.mark.parametrize(("command", "old", "new"), OPTIONS)
@pytest.mark.parametrize("spelling", ["value", "equals", "snake_case"])
def test_an_old_option_is_refused_with_its_new_name(e4t: E4T, command: str, old: str, new: str, spelling: str) -> None:
    option = f"--{old[2:].replace('-', '_')}" if spelling == "snake_case" else old
    words = [f"{option}=3"] if spelling == "equals" else [option, "3"]
    message = refusal(e4t(*command.split(), *words))
    assert message.startswith(option)
    assert new in message


@pytest.mark.parametrize("command", RENAMED_OPTIONS)
def test_new_options_exist_and_old_ones_do_not(command: str) -> None:
    known = options_of(command)
    assert {new for new in RENAMED_OPTIONS[command].values() if new.startswith("--")} <= known
    assert not RENAMED_OPTIONS[command].keys() & known
    assert FLAGS.get(command, set()) <= known


@pytest.mark.parametrize(("command", "flag"), FLAG_OPTIONS)
@pytest.mark.parametrize("words", [("{}", "true"), ("{}=true",), ("{}", "True")], ids=["value", "equals", "capital"])
def test_a_flag_that_is_given_true_is_refused(e4t: E4T, command: str, flag: str, words: tuple[str, ...]) -> None:
    given = [word.format(flag) for word in words]
    message = refusal(e4t(*command.split(), *given))
    assert "without a value" in message or "leave it out" in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("release", "--register", "false"), "--register false is now the flag --no-register, without a value"),
        (("release", "--register", "true"), "--register true is the default now: leave it out"),
        (("release", "--allow-dirty", "false"), "--allow-dirty false is the default now: leave it out"),
        (("pretrain", "--accept-changes", "true"), "is now the flag --allow-config-change, without a value"),
        (("tune", "--each", "true"), "--each true is now the flag --separate-concepts, without a value"),
        (("tune", "--text_encoder", "true"), "is now the flag --train-text-encoder, without a value"),
    ],
)
def test_an_old_boolean_option_names_the_flag_that_means_the_same(
    e4t: E4T, words: tuple[str, ...], message: str
) -> None:
    assert message in refusal(e4t(*words))


@pytest.mark.parametrize(
    ("command", "option", "old", "new"),
    [
        (command, option, old, new)
        for command, options in RENAMED_OPTION_VALUES.items()
        for option, values in options.items()
        for old, new in values.items()
    ],
)
def test_an_old_value_of_an_option_is_refused_with_its_new_name(
    e4t: E4T, command: str, option: str, old: str, new: str
) -> None:
    assert refusal(e4t(*command.split(), option, old)) == f"{option} {old} is now {option} {new}"
    assert refusal(e4t(*command.split(), f"{option}=[{old}]")) == f"{option} {old} is now {option} {new}"


@pytest.mark.parametrize("option", ["--lora_rank", "--batch_size", "--embedding_learning_rate"])
def test_an_option_in_snake_case_is_refused_with_its_kebab_case(e4t: E4T, option: str) -> None:
    assert refusal(e4t("tune", option, "2")).startswith(f"{option} is now {option.replace('_', '-')};")


@pytest.mark.parametrize(("old", "new"), RECIPE_KEYS)
def test_an_old_recipe_key_as_an_option_is_refused_with_its_new_name(e4t: E4T, old: str, new: str) -> None:
    message = f"command line uses old names: {old} is now {new}; rename it"
    assert refusal(e4t("evaluate", f"--{old}", "1")) == message
    assert refusal(e4t("evaluate", f"--{old}=1")) == message


def test_an_old_dotted_option_of_demo_base_is_refused_with_its_new_name(e4t: E4T) -> None:
    message = "--recogniser.minutes is now --recognizer.minutes"
    assert refusal(e4t("demo", "base", "--recogniser.minutes", "3")) == message


def test_old_keys_inside_a_mapping_on_the_command_line_are_refused(e4t: E4T) -> None:
    assert "data.codec is now data.format" in refusal(e4t("prepare", "--data", "{codec: png}"))
    system = "[{name: a, method: e4t, start: release, settings: {word: identifier}}]"
    message = refusal(e4t("compare", "--compare.systems", system))
    assert "compare.systems.start is now compare.systems.init" in message
    assert "settings.word is now compare.systems.settings.token_type" in message


@pytest.mark.parametrize("command", [("prepare",), ("pretrain",), ("submit", "slurm", "--stage", "all")])
@pytest.mark.parametrize("spelling", ["--recipe {}", "--recipe={}"])
def test_a_recipe_file_with_an_old_key_is_refused_by_every_command(
    e4t: E4T, recipe: Path, command: tuple[str, ...], spelling: str
) -> None:
    recipe.write_text(recipe.read_text().replace("max_steps:", "steps:"))
    message = refusal(e4t(*command, *spelling.format(recipe).split()))
    assert message == f"recipe {recipe} uses old names: pretrain.steps is now pretrain.max_steps; rename it"


def test_an_old_key_of_a_site_is_refused_in_a_file_and_as_an_option(e4t: E4T, recipe: Path, tmp_path: Path) -> None:
    words = ("submit", "k8s", "--recipe", recipe, "--stage", "all")
    assert "pods_at_once is now max_parallel_pods" in refusal(e4t(*words, "--site.pods_at_once", "3"))
    site = tmp_path / "site.yaml"
    site.write_text("runs: my-claim\n")
    assert refusal(e4t(*words, "--site", site)) == f"site file {site} uses old names: runs is now runs_claim; rename it"


def test_an_old_option_for_the_last_job_of_a_submission_is_refused(e4t: E4T, recipe: Path) -> None:
    words = ("submit", "slurm", "--recipe", recipe, "--stage", "release", "--dry-run", "--", "--by", "loss")
    assert refusal(e4t(*words)).startswith("--by is now --metric;")
