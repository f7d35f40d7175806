"""Commands of the built-in demo: the quickstart, its images and its tiny base model."""

from functools import partial

from jsonargparse import Namespace

from pipelines.cli.common import (
    Command,
    CommandParser,
    add_config_arguments,
    add_launch_arguments,
    parse_config,
    parse_recipe,
)
from pipelines.runtime.console import ProgressBar, console


def quickstart(arguments: Namespace, _: list[str]) -> int:
    """Run every stage of the demo on this machine: generate faces, prepare, pre-train, evaluate, release."""
    from pipelines.cli.quickstart import quickstart as run

    return run(parse_recipe(arguments), nproc=arguments.nproc)


def add_faces_arguments(parser: CommandParser) -> None:
    """Add the options of ``e4t demo faces``."""
    from data_prep.synthetic.faces import FacesConfig

    add_config_arguments(parser, FacesConfig)


def faces(arguments: Namespace, _: list[str]) -> None:
    """Generate synthetic faces, as a folder of images with captions."""
    from data_prep.synthetic.faces import FacesConfig, generate_faces

    config = parse_config(FacesConfig, arguments)
    with ProgressBar("generating faces") as bar:
        generate_faces(config, on_progress=bar)
    console.print(f"faces: {config.output}")


def add_emoji_arguments(parser: CommandParser) -> None:
    """Add the options of ``e4t demo emoji``."""
    from data_prep.synthetic.emoji import EmojiConfig

    add_config_arguments(parser, EmojiConfig)


def emoji(arguments: Namespace, _: list[str]) -> None:
    """Build a folder of emoji by two vendors, from two npm packages that ``npm pack`` has downloaded."""
    from data_prep.synthetic.emoji import EmojiConfig, build_emoji_dataset

    config = parse_config(EmojiConfig, arguments)
    with ProgressBar("building the emoji dataset") as bar:
        build_emoji_dataset(config, on_progress=bar)
    console.print(f"emoji: {config.output}")


def add_base_arguments(parser: CommandParser) -> None:
    """Add the options of ``e4t demo base``."""
    from pipelines.tiny_base.config import BaseConfig

    add_config_arguments(parser, BaseConfig)


def base(arguments: Namespace, raw: list[str]) -> int:
    """Train the tiny base model from scratch on the synthetic faces."""
    from pipelines.tiny_base.config import BaseConfig
    from pipelines.tiny_base.train import train_base

    return train_base(parse_config(BaseConfig, arguments), raw)


QUICKSTART = Command(
    name="quickstart",
    summary="Run every stage on synthetic faces, in minutes on a CPU",
    add_arguments=partial(add_launch_arguments, nproc=2),
    run=quickstart,
    kept_when_interrupted="finished stages",
    usual_keys=("name", "runs", "data.source", "data.output", "pretrain.max_steps"),
)
DEMO = Command(
    name="demo",
    summary="Make the demo's images and tiny base model",
    subcommands=(
        Command(
            name="faces",
            summary="Generate synthetic faces with captions",
            add_arguments=add_faces_arguments,
            run=faces,
        ),
        Command(
            name="emoji",
            summary="Build the emoji dataset from two npm packages",
            add_arguments=add_emoji_arguments,
            run=emoji,
        ),
        Command(
            name="base",
            summary="Train the tiny base model from scratch",
            add_arguments=add_base_arguments,
            run=base,
        ),
    ),
)
