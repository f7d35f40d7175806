"""Commands that measure a release: evaluate, compare."""

from pathlib import Path

from jsonargparse import Namespace

from pipelines.cli.common import (
    RELEASE_HELP,
    Command,
    CommandParser,
    add_rank_arguments,
    add_recipe_arguments,
    parse_recipe,
)
from pipelines.runtime.array_task import rank_and_world_size
from pipelines.runtime.console import ProgressBar, console


def add_evaluate_arguments(parser: CommandParser) -> None:
    """Add the options of ``e4t evaluate``."""
    parser.add_argument(
        "--release", type=str, default=None, help=f"{RELEASE_HELP} By default the run's latest checkpoint."
    )
    parser.add_argument(
        "--output", type=str, default=None, help="Folder for grid.png and report.json; by default <run>/evaluation."
    )
    add_recipe_arguments(parser)


def evaluate(arguments: Namespace, _: list[str]) -> None:
    """Personalize held-out concepts with and without pre-training, and write grid.png and report.json."""
    from pipelines.cli.tables import report_table
    from pipelines.evaluation.evaluate import evaluate as run
    from pipelines.registry.resolve import resolve_release
    from pipelines.release.build import candidate_release

    recipe = parse_recipe(arguments)
    output = Path(arguments.output or recipe.folder / "evaluation")
    release = resolve_release(arguments.release, recipe.runs) if arguments.release else candidate_release(recipe)
    with ProgressBar("personalizing held-out concepts") as bar:
        report = run(recipe, release, output, bar)
    console.print(report_table(report))
    console.print(f"grid: {output / 'grid.png'}  report: {output / 'report.json'}")


def add_compare_arguments(parser: CommandParser) -> None:
    """Add the options of ``e4t compare``."""
    parser.add_argument("--release", type=str, default=None, help=f"{RELEASE_HELP} By default <run>/release.")
    parser.add_argument("--output", type=str, default=None, help="Folder for the results; by default <run>/comparison.")
    parser.add_argument(
        "--stage",
        choices=["all", "work", "present"],
        default="all",
        help="Run a single stage, for a scheduler: work on every rank, then present once.",
    )
    add_rank_arguments(parser)
    add_recipe_arguments(parser)


def compare(arguments: Namespace, _: list[str]) -> None:
    """Compare personalization methods side by side, and write figure.png, plots, a table and report.html."""
    from pipelines.cli.tables import report_table
    from pipelines.evaluation.compare import build_comparison, present
    from pipelines.evaluation.runner import run_local
    from pipelines.registry.resolve import resolve_release

    recipe = parse_recipe(arguments)
    release = resolve_release(arguments.release or str(recipe.folder / "release"), recipe.runs)
    comparison = build_comparison(recipe, release, Path(arguments.output or recipe.folder / "comparison"))
    if arguments.stage == "work":
        comparison.run(*rank_and_world_size(arguments.rank, arguments.world_size))
        return
    if arguments.stage == "all":
        with ProgressBar("personalizing held-out concepts") as bar:
            run_local(comparison, bar)
    with ProgressBar("computing metrics") as bar:
        report = present(comparison, release, bar)
    console.print(report_table(report))
    console.print(f"figure: {comparison.output / 'figure.png'}  page: {comparison.output / 'report.html'}")


_EVALUATE_KEYS = (
    "name",
    "runs",
    "evaluate.num_concepts",
    "evaluate.split",
    "evaluate.num_prompts",
    "evaluate.prompts",
    "evaluate.steps",
    "evaluate.recognizer",
    "evaluate.seed",
)
EVALUATE = Command(
    name="evaluate",
    summary="Measure a checkpoint or release on held-out concepts",
    add_arguments=add_evaluate_arguments,
    run=evaluate,
    kept_when_interrupted="finished results",
    usual_keys=(*_EVALUATE_KEYS, "evaluate.num_grid_concepts"),
)
COMPARE = Command(
    name="compare",
    summary="Compare a release with other personalization methods",
    add_arguments=add_compare_arguments,
    run=compare,
    kept_when_interrupted="finished results",
    usual_keys=(*_EVALUATE_KEYS, "compare.systems"),
)
