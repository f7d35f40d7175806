"""The ``Command`` type, and the options that several commands share."""

from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, fields
from typing import TYPE_CHECKING, Any, Optional, TypeVar, get_type_hints

from jsonargparse import ActionYesNo, ArgumentParser, Namespace

from encoder.config import Precision

if TYPE_CHECKING:
    from pipelines.config.recipe import Recipe

Config = TypeVar("Config")
RELEASE_HELP = "Release folder, models:/name@alias, models:/name/3, or a Hub id owner/name[@revision]."


@dataclass(frozen=True, kw_only=True)
class Command:
    """A subcommand of ``e4t``: its options and what it does, in one object."""

    name: str
    """The word on the command line."""
    summary: str
    """Text of ``e4t --help``, under 60 characters."""
    add_arguments: Callable[["CommandParser"], None] = lambda parser: None
    """Add the options to a parser. Called only for the current command, so its imports do not slow down others."""
    run: Callable[[Namespace, list[str]], int | None] = lambda arguments, raw: None
    """Run with the parsed options and the command line as given; returns the exit code, None for 0."""
    kept_when_interrupted: str = ""
    """What an interrupted command has saved and a rerun continues from, as in "finished shards"; empty if it starts
    anew."""
    usual_keys: tuple[str, ...] = ()
    """Recipe keys that ``--help`` shows; the others appear with ``--help-all``."""
    subcommands: tuple["Command", ...] = ()
    """Commands below this one (``e4t demo faces``); a command has either these or options of its own."""

    def describe(self) -> str:
        """Return the description at the head of ``e4t COMMAND --help``."""
        text = self.summary if self.subcommands else (self.run.__doc__ or self.summary)
        return text.replace("``", "`")


class CommandParser(ArgumentParser):
    """Parser of one command, which knows which of its options are keys of a configuration."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - those of ArgumentParser
        super().__init__(*args, **kwargs)
        self.keys: set[str] = set()

    def add_keys(self, kind: type, section: str | None = None) -> None:
        """Add a dotted option for every key of a configuration dataclass, below ``section`` if one is given."""
        before = {action.dest for action in self._actions}
        self.add_class_arguments(kind, section, as_group=section is not None)
        self.keys |= {action.dest for action in self._actions} - before


def parse_config(kind: type[Config], arguments: Namespace) -> Config:
    """Build a configuration dataclass from parsed arguments; every nested dataclass checks itself."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, as_group=False)
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    instances = parser.instantiate(Namespace({name: arguments[name] for name in names}))
    return kind(**{name: instances[name] for name in names})


def parse_recipe(arguments: Namespace) -> "Recipe":
    """Build the recipe from parsed arguments."""
    from pipelines.config.recipe import Recipe

    return parse_config(Recipe, arguments)


def add_recipe_arguments(parser: CommandParser) -> None:
    """Add ``--recipe`` and every recipe key as a dotted option."""
    from pipelines.config.recipe import Recipe

    parser.add_argument("--recipe", action="config", help="YAML file, or the name of a recipe that comes with e4t.")
    parser.add_keys(Recipe)


def add_config_arguments(parser: CommandParser, kind: type, *, optional: bool = False) -> None:
    """Add an option in kebab-case for each field of a configuration dataclass, with the field's docstring as help.

    Args:
        parser: the parser that gets the options.
        kind: the dataclass.
        optional: let every option default to None, for options that replace single settings of something else.
    """
    types, docs = get_type_hints(kind), field_docs(kind)
    for field in fields(kind):
        flag = f"--{field.name.replace('_', '-')}"
        default = None if optional else _default(field)
        text = docs.get(field.name, "")
        if types[field.name] is bool:
            parser.add_argument(flag, action=ActionYesNo(no_prefix="no-"), default=default, help=text)
            parser.keys.add(field.name)
            continue
        annotation = Optional[types[field.name]] if optional else types[field.name]  # noqa: UP045 - a type made at run time
        required = not optional and default is MISSING
        options = {"required": True} if required else {"default": default}
        parser.add_argument(flag, type=annotation, help=text, **options)
        parser.keys.add(field.name)


def _default(field: "Field[Any]") -> Any:  # noqa: ANN401 - a default of any type
    return field.default_factory() if field.default_factory is not MISSING else field.default


def field_docs(kind: type) -> dict[str, str]:
    """Return the docstring under each field of a dataclass, as one line."""
    from docstring_parser import parse_from_object

    params = parse_from_object(kind).params
    return {param.arg_name: " ".join((param.description or "").split()) for param in params}


def add_launch_arguments(parser: CommandParser, nproc: int = 1) -> None:
    """Add a recipe, and the number of processes that run it on this machine."""
    parser.add_argument("--nproc", type=int, default=nproc, help="Processes to start on this machine, one per device.")
    add_recipe_arguments(parser)


def add_rank_arguments(parser: CommandParser) -> None:
    """Add the rank and world size of ``--stage work``; ``rank_and_world_size`` returns them."""
    parser.add_argument(
        "--rank",
        type=int | None,
        default=None,
        help="Rank of this process with --stage work. By default that of the SLURM array task (SLURM_ARRAY_TASK_ID) or "
        "of the pod of an Indexed Job (JOB_COMPLETION_INDEX), else 0.",
    )
    parser.add_argument(
        "--world-size",
        type=int | None,
        default=None,
        help="Number of ranks that share --stage work. By default that of the SLURM array (SLURM_ARRAY_TASK_COUNT) or "
        "of the Indexed Job (JOB_COMPLETIONS, which the Job has to set), else 1.",
    )


def add_runs_argument(parser: CommandParser) -> None:
    """Add the folder of runs, whose MLflow store is used."""
    parser.add_argument(
        "--runs",
        type=str,
        default="runs",
        help="Folder of all runs. Its MLflow database is used unless MLFLOW_TRACKING_URI is set.",
    )


def add_base_arguments(parser: CommandParser) -> None:
    """Add the base model, device and precision with which a release is loaded."""
    parser.add_argument(
        "--base", type=str, default=None, help="Base model folder or Hub id, in place of the one the release names."
    )
    parser.add_argument(
        "--device", type=str, default=None, help="cpu, cuda, cuda:1, ... By default a GPU if there is one."
    )
    parser.add_argument(
        "--dtype", type=Precision | None, default=None, help="Precision of the base model, in place of the release's."
    )


def add_pipeline_arguments(parser: CommandParser) -> None:
    """Add the release to load, and how to load it."""
    parser.add_argument("--release", type=str, required=True, help=RELEASE_HELP)
    add_base_arguments(parser)
    add_runs_argument(parser)
