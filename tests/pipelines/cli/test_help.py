"""Help texts: commands in groups, the usual options first, every recipe key explained."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest

from data_prep.synthetic.emoji import EmojiConfig
from data_prep.synthetic.faces import FacesConfig
from encoder.config import TuneConfig
from pipelines.cli.commands import COMMAND_GROUPS, ROOT
from pipelines.cli.common import Command, CommandParser, field_docs
from pipelines.cli.main import main
from pipelines.cluster.kubernetes import KubernetesSite
from pipelines.cluster.slurm import SlurmSite
from pipelines.config.pretraining import PretrainConfig
from pipelines.config.recipe import Recipe
from pipelines.tiny_base.config import BaseConfig


def help_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 0
    return capsys.readouterr().out


def leaves(command: Command = ROOT, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Command]]:
    """Every command that runs something, with the words that name it."""
    if not command.subcommands:
        return [(path, command)]
    return [leaf for each in command.subcommands for leaf in leaves(each, (*path, each.name))]


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",)])
def test_the_overview_lists_every_command_in_its_group(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert main(words) == 0
    out = capsys.readouterr().out
    positions = [out.index(f"\n{group}:\n") for group in COMMAND_GROUPS]
    assert positions == sorted(positions)
    for group in COMMAND_GROUPS.values():
        assert all(f"\n  {command.name:<12}{command.summary}\n" in out for command in group)


@pytest.mark.parametrize(
    ("path", "command"), leaves(), ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_every_command_has_a_short_summary_and_a_help(
    capsys: pytest.CaptureFixture[str], path: tuple[str, ...], command: Command
) -> None:
    assert len(command.summary) < 60
    out = help_of(capsys, *path, "--help")
    assert out.startswith(f"usage: e4t {' '.join(path)}")


@pytest.mark.parametrize(
    ("path", "command"), leaves(), ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_the_usual_keys_of_a_command_exist(path: tuple[str, ...], command: Command) -> None:
    parser = CommandParser(exit_on_error=False)
    command.add_arguments(parser)
    assert set(command.usual_keys) <= parser.keys


def test_help_shows_the_usual_keys_and_help_all_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    usual = help_of(capsys, "pretrain", "--help")
    every = help_of(capsys, "pretrain", "--help-all")
    assert "--pretrain.max_steps" in usual
    assert "--pretrain.loss_spike_factor" not in usual
    assert "more keys: e4t pretrain --help-all" in usual
    assert "--pretrain.loss_spike_factor" in every
    assert "more keys" not in every


def test_help_shows_the_docstring_of_a_recipe_key(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(help_of(capsys, "pretrain", "--help").split())
    assert field_docs(PretrainConfig)["global_batch_size"].replace("``", "`") in text


def test_options_of_tune_and_demo_are_kebab_case_with_the_docstring_as_help(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(help_of(capsys, "tune", "--help-all").split())
    assert all(f"--{field.name.replace('_', '-')}" in text for field in fields(TuneConfig))
    assert field_docs(TuneConfig)["batch_size"].replace("``", "`") in text
    text = " ".join(help_of(capsys, "demo", "faces", "--help").split())
    assert all(f"--{field.name.replace('_', '-')}" in text for field in fields(FacesConfig))


@pytest.mark.parametrize(
    "kind", [Recipe, SlurmSite, KubernetesSite, BaseConfig, FacesConfig, EmojiConfig], ids=lambda kind: kind.__name__
)
def test_every_key_has_a_docstring(kind: type) -> None:
    def undocumented(kind: type, path: str) -> Iterator[str]:
        docs, types = field_docs(kind), get_type_hints(kind)
        for field in fields(kind):  # type: ignore[arg-type]
            if not docs.get(field.name):
                yield path + field.name
            if is_dataclass(types[field.name]):
                yield from undocumented(types[field.name], f"{path}{field.name}.")

    assert list(undocumented(kind, "")) == []


def completions(line: str, tmp_path: Path) -> list[str]:
    """Return the completions of a line, requested as the code of ``register-python-argcomplete`` does."""
    output = tmp_path / "completions"
    environment = os.environ | {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(output),
        "_ARGCOMPLETE_SUPPRESS_SPACE": "0",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "COMP_TYPE": "9",
    }
    subprocess.run([sys.executable, "-m", "e4t"], env=environment, check=False, capture_output=True)  # noqa: S603 - our own command
    return output.read_text().split("\013")


def test_the_shell_completes_a_command_and_an_option(tmp_path: Path) -> None:
    assert [word.strip() for word in completions("e4t prom", tmp_path)] == ["promote"]
    assert [word.strip() for word in completions("e4t demo fa", tmp_path)] == ["faces"]
    assert [word.strip() for word in completions("e4t generate --seed 3 --guid", tmp_path)] == ["--guidance-scale"]
    assert "--pretrain.max_steps" in completions("e4t pretrain --pretrain.max", tmp_path)[0]
    assert "slurm" in [word.strip() for word in completions("e4t submit ", tmp_path)]
