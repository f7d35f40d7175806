"""Commands about releases: release, promote, lineage, import."""

from pathlib import Path

from jsonargparse import Namespace

from pipelines.cli.common import (
    RELEASE_HELP,
    Command,
    CommandParser,
    add_recipe_arguments,
    add_runs_argument,
    parse_recipe,
)
from pipelines.errors import EXIT_FAILURE, EXIT_OK, RunError
from pipelines.runtime.console import console


def add_release_arguments(parser: CommandParser) -> None:
    """Add the options of ``e4t release``."""
    parser.add_argument("--version", type=str, default="0.1.0", help="Semantic version of the release.")
    parser.add_argument(
        "--checkpoint",
        type=str,
        default="latest",
        help="latest, best (the lowest value of --metric), or the step of a checkpoint.",
    )
    parser.add_argument(
        "--metric", type=str, default="validation_loss", help="Metric that --checkpoint best minimizes."
    )
    parser.add_argument("--output", type=str, default=None, help="Release folder; by default <run>/release.")
    parser.add_argument(
        "--allow-dirty", action="store_true", help="Release although the code has changes that are not committed."
    )
    parser.add_argument(
        "--no-register",
        dest="register",
        action="store_false",
        help="Do not register the release in MLflow's model registry.",
    )
    parser.add_argument("--push", type=str, default=None, help="Also upload to the Hugging Face Hub, as owner/name.")
    parser.add_argument("--private", action="store_true", help="With --push, create the Hub repository as private.")
    add_recipe_arguments(parser)


def release(arguments: Namespace, _: list[str]) -> None:
    """Build a release folder from a checkpoint of a run, and register it in MLflow as ``candidate``."""
    from pipelines.release.build import make_release
    from pipelines.release.checkpoint_selection import select_checkpoint
    from pipelines.release.registration import register

    recipe = parse_recipe(arguments)
    checkpoint = select_checkpoint(recipe, arguments.checkpoint, arguments.metric)
    output = Path(arguments.output or recipe.folder / "release")
    new_release = make_release(recipe, output, arguments.version, checkpoint, allow_dirty=arguments.allow_dirty)
    console.print(f"release: {new_release.folder}  {new_release.id}  {checkpoint.name}", soft_wrap=True)
    if arguments.register:
        try:
            console.print(f"registered: models:/{new_release.name}/{register(recipe, new_release)}  alias candidate")
        except RunError as error:  # the release folder is complete: an unreachable registry must not fail the command
            console.print(f"not registered: {error}", soft_wrap=True)
    if arguments.push:
        from pipelines.release.hub_push import push

        console.print(f"pushed: {push(new_release, arguments.push, private=arguments.private)}", soft_wrap=True)


def add_promote_arguments(parser: CommandParser) -> None:
    """Add the options of ``e4t promote``."""
    parser.add_argument("name", type=str, help="Name of the registered model.")
    parser.add_argument("version", type=str, help="Version number in the registry, or semantic version.")
    parser.add_argument("--alias", type=str, default="champion", help="Alias to move.")
    add_runs_argument(parser)


def promote(arguments: Namespace, _: list[str]) -> None:
    """Move an alias such as ``champion`` to a registered version. To roll back, promote the version before."""
    from pipelines.release.registration import promote as move_alias

    before, now = move_alias(arguments.name, arguments.version, arguments.alias, Path(arguments.runs))
    console.print(f"{arguments.name}@{arguments.alias}: {before or 'none'} -> {now}")
    if before not in (None, now):
        console.print(f"rollback: e4t promote {arguments.name} {before} --alias {arguments.alias}", soft_wrap=True)


def add_lineage_arguments(parser: CommandParser) -> None:
    """Add the options of ``e4t lineage``."""
    parser.add_argument("release", type=str, help=RELEASE_HELP)
    parser.add_argument(
        "--base", type=str, default=None, help="Base model to verify, in place of the one the release names."
    )
    add_runs_argument(parser)


def lineage(arguments: Namespace, _: list[str]) -> int:
    """Trace a release back to the sources of its data, and verify every digest that can be reached."""
    from pipelines.release.lineage import DIFFERS, lineage_of

    steps = []
    for step in lineage_of(arguments.release, Path(arguments.runs), base=arguments.base):
        console.print(step.format(), markup=False, soft_wrap=True)
        steps.append(step)
    return EXIT_FAILURE if any(step.status == DIFFERS for step in steps) else EXIT_OK


def add_import_diffusers_arguments(parser: CommandParser) -> None:
    """Add the options of ``e4t import diffusers``."""
    parser.add_argument(
        "--folder", type=str, required=True, help="Folder or .safetensors file with learned embeddings or a LoRA."
    )
    parser.add_argument(
        "--release",
        type=str,
        required=True,
        help=f"Release on whose base model the concept was trained. {RELEASE_HELP}",
    )
    parser.add_argument(
        "--base", type=str, default=None, help="Base model folder or Hub id, in place of the one the release names."
    )
    parser.add_argument(
        "--rare-token", type=str, default="sks", help="Token that prompts use for a concept that is only a LoRA."
    )
    parser.add_argument("--output", type=str, default="concept", help="Concept folder to write.")


def import_diffusers(arguments: Namespace, _: list[str]) -> None:
    """Import learned embeddings or a LoRA saved by diffusers or kohya's trainer, as a concept."""
    from encoder.concepts.diffusers_io import from_diffusers
    from encoder.pipeline import base_only_id
    from encoder.releases.release import Release
    from pipelines.registry.resolve import resolve_release

    base = Release.open(resolve_release(arguments.release)).backbone_config(arguments.base)
    concept = from_diffusers(arguments.folder, release=base_only_id(base), rare_token=arguments.rare_token)
    console.print(f"concept: {concept.save(arguments.output)}")


def add_import_mkshing_arguments(parser: CommandParser) -> None:
    """Add the options of ``e4t import mkshing``."""
    parser.add_argument("path", type=str, help="Folder with weight_offsets.pt, encoder.pt and config.json.")
    parser.add_argument("--output", type=str, required=True, help="Release folder to write.")
    parser.add_argument(
        "--base", type=str, default=None, help="Base model folder or Hub id, in place of the one in config.json."
    )
    parser.add_argument(
        "--image-encoder",
        type=str,
        default=None,
        help="CLIP image encoder as folder or Hub id, in place of the one in config.json.",
    )
    parser.add_argument("--name", type=str, default=None, help="Name of the release; by default that of the folder.")
    parser.add_argument("--version", type=str, default="0.1.0", help="Semantic version of the release.")


def import_mkshing(arguments: Namespace, _: list[str]) -> None:
    """Import a checkpoint pre-trained with mkshing/e4t-diffusion, as a release (docs/import.md)."""
    from pipelines.release.import_mkshing import import_release

    imported = import_release(
        Path(arguments.path),
        Path(arguments.output),
        arguments.name or Path(arguments.path).resolve().name,
        arguments.version,
        base=arguments.base,
        image_encoder=arguments.image_encoder,
    )
    console.print(f"release: {imported.folder}  {imported.name} {imported.version}")


RELEASE = Command(
    name="release",
    summary="Build, register and publish a release of a run",
    add_arguments=add_release_arguments,
    run=release,
    usual_keys=("name", "runs", "publish.min_scores", "publish.license", "publish.data_statement"),
)
PROMOTE = Command(
    name="promote",
    summary="Move an alias such as champion to a version",
    add_arguments=add_promote_arguments,
    run=promote,
)
LINEAGE = Command(
    name="lineage",
    summary="Trace and verify where a release comes from",
    add_arguments=add_lineage_arguments,
    run=lineage,
)
IMPORT = Command(
    name="import",
    summary="Import concepts and checkpoints of other trainers",
    subcommands=(
        Command(
            name="diffusers",
            summary="Embeddings or a LoRA of diffusers or kohya, as a concept",
            add_arguments=add_import_diffusers_arguments,
            run=import_diffusers,
        ),
        Command(
            name="mkshing",
            summary="A checkpoint of mkshing/e4t-diffusion, as a release",
            add_arguments=add_import_mkshing_arguments,
            run=import_mkshing,
        ),
    ),
)
