"""What each subcommand takes. Imports of seconds stand where they are used."""

import os
from dataclasses import fields
from typing import Optional, get_args

from jsonargparse import ArgumentParser

from data_prep.config import PrepareConfig
from data_prep.synthetic.emoji import EmojiConfig
from data_prep.synthetic.faces import FacesConfig
from encoder.config import Precision, TuneConfig
from encoder.tuning.presets import METHODS

RELEASES = "folder, models:/name@alias, models:/name/3, or hub id owner/name[@revision]"


def _takes_recipe(parser: ArgumentParser) -> None:
    from pipelines.config.recipe import Recipe

    parser.add_argument("--recipe", action="config", help="YAML file, or the name of a recipe that comes with e4t")
    parser.add_class_arguments(Recipe, as_group=False)


def faces(parser: ArgumentParser) -> None:
    """Of drawing the faces."""
    parser.add_class_arguments(FacesConfig, as_group=False)


def emoji(parser: ArgumentParser) -> None:
    """Of laying out emoji."""
    parser.add_class_arguments(EmojiConfig, as_group=False)


def base(parser: ArgumentParser) -> None:
    """Of training the tiny base."""
    from pipelines.tiny_base.config import BaseConfig

    parser.add_class_arguments(BaseConfig, as_group=False)


def prepare(parser: ArgumentParser) -> None:
    """Of preparing shards."""
    parser.add_argument("--recipe", action="config", help="as elsewhere; of it only ``data`` is needed")
    parser.add_class_arguments(PrepareConfig, "data")
    parser.add_argument("--executor", choices=["local", "ray"], default="local", help="where the ranks run")
    parser.add_argument("--workers", type=int, default=0, help="ranks; 0 for one a core")
    parser.add_argument("--address", type=str, default=None, help="of a Ray cluster")
    parser.add_argument(
        "--stage", choices=["all", "plan", "work", "merge"], default="all", help="one part alone, for a scheduler"
    )
    _takes_rank(parser)
    parser.add_argument("--runs", type=str, default=None, help="folder of runs whose MLflow is told; the recipe's")
    parser.add_argument("--verify", action="store_true", help="recheck every shard instead")
    parser.add_argument("--status", action="store_true", help="tell how far a running or finished job is instead")


def _takes_rank(parser: ArgumentParser) -> None:
    scheduled = os.environ.get("SLURM_ARRAY_TASK_ID") or os.environ.get("JOB_COMPLETION_INDEX") or 0
    parser.add_argument("--rank", type=int, default=int(scheduled), help="of --stage work; the scheduler's, if any")
    parser.add_argument("--world", type=int, default=1, help="ranks of --stage work")


def ranks(parser: ArgumentParser, nproc: int = 1) -> None:
    """A recipe, and how many processes run it."""
    _takes_recipe(parser)
    parser.add_argument("--nproc", type=int, default=nproc, help="processes to start here, one a device")


def pretrain(parser: ArgumentParser) -> None:
    """Of pre-training."""
    ranks(parser)
    parser.add_argument(
        "--max-minutes", type=float, default=None, help="save and end with exit code 75 (start me again) after so long"
    )
    parser.add_argument("--profile", type=bool, default=False, help="write a trace of a few steps to <run>/profile")
    parser.add_argument(
        "--accept-changes", type=bool, default=False, help="go on although recipe or data are not those of the start"
    )


def plan(parser: ArgumentParser) -> None:
    """Of planning."""
    _takes_recipe(parser)
    parser.add_argument("--devices", type=int, default=1, help="of pre-training; tuning takes one")
    parser.add_argument("--device", type=str, default="H100", help="H100, A100, L4, RTX 4090, cpu, ...")
    parser.add_argument("--json", type=str, default=None, help="file for the plans")


def cache(parser: ArgumentParser) -> None:
    """Of caching features."""
    ranks(parser)
    parser.add_argument("--stage", choices=["all", "work"], default="all", help="one rank alone, for a scheduler")
    _takes_rank(parser)
    parser.add_argument("--verify", action="store_true", help="recheck every file instead")


def release(parser: ArgumentParser) -> None:
    """Of releasing."""
    _takes_recipe(parser)
    parser.add_argument("--version", type=str, default="0.1.0", help="semantic version")
    parser.add_argument("--checkpoint", type=str, default="newest", help="newest, best, or a step")
    parser.add_argument("--by", type=str, default="validation_loss", help="number whose least --checkpoint best means")
    parser.add_argument("--output", type=str, default=None, help="release folder; by default <run>/release")
    parser.add_argument("--allow-dirty", type=bool, default=False, help="release what changed code has made")
    parser.add_argument("--register", type=bool, default=True, help="register the version in MLflow")
    parser.add_argument("--push", type=str, default=None, help="put it on the hub, too, as owner/name")
    parser.add_argument("--private", type=bool, default=False, help="make that a model that only you see")


def _takes_runs(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--runs", type=str, default="runs", help="folder of runs; its MLflow unless MLFLOW_TRACKING_URI"
    )


def promote(parser: ArgumentParser) -> None:
    """Of moving an alias."""
    parser.add_argument("name", type=str, help="of the registered model")
    parser.add_argument("version", type=str, help="the registry's number, or the semantic version")
    parser.add_argument("--to", type=str, default="champion", help="alias")
    _takes_runs(parser)


def lineage(parser: ArgumentParser) -> None:
    """Of telling where a release comes from."""
    parser.add_argument("release", type=str, help="release folder, models:/name@alias or models:/name/3, or hub id")
    parser.add_argument("--base", type=str, default=None, help="base model to check, instead of the release's")
    _takes_runs(parser)


def _takes_release(parser: ArgumentParser) -> None:
    _takes_recipe(parser)
    parser.add_argument("--release", type=str, default=None, help=RELEASES)


def evaluate(parser: ArgumentParser) -> None:
    """Of evaluating."""
    _takes_release(parser)
    parser.add_argument(
        "--output", type=str, default=None, help="folder for grid.png and report.json; by default <run>/evaluation"
    )


def compare(parser: ArgumentParser) -> None:
    """Of comparing."""
    _takes_release(parser)
    parser.add_argument("--output", type=str, default=None, help="folder for results; by default <run>/comparison")
    parser.add_argument(
        "--stage", choices=["all", "work", "present"], default="all", help="one part alone, for a scheduler"
    )
    _takes_rank(parser)


def submit(parser: ArgumentParser) -> None:
    """Of sending to a cluster."""
    from pipelines.cluster.jobs import Stage
    from pipelines.cluster.schedulers import SCHEDULERS

    subcommands = parser.add_subcommands(dest="scheduler")
    for name, scheduler in SCHEDULERS.items():
        sub = ArgumentParser(exit_on_error=False, description=scheduler.__doc__)
        _takes_recipe(sub)
        sub.add_argument("--job", choices=get_args(Stage), required=True, help="a stage; pipeline is all of them")
        sub.add_class_arguments(scheduler.Site, "site")
        sub.add_argument("--nodes", type=int, default=1, help="of pre-training")
        sub.add_argument("--tasks", type=int, default=8, help="that share the work of prepare, cache and compare")
        sub.add_argument(
            "--extra", type=list[str], default=[], help="more words for the last job: '[--version, 1.2.0]'"
        )
        sub.add_argument("--dry-run", type=bool, default=False, help="print what would be sent")
        subcommands.add_subcommand(name, sub, help=(scheduler.__doc__ or "").partition(":")[0])


def doctor(parser: ArgumentParser) -> None:
    """Of looking at this machine."""
    parser.add_argument("--runs", type=str, default="runs", help="folder of all runs")
    parser.add_argument(
        "--nproc", type=int, default=None, help="ranks that would train here; by default one a GPU, or 2"
    )
    parser.add_argument("--json", type=str, default=None, help="file for the findings")


def status(parser: ArgumentParser) -> None:
    """Of looking after a run."""
    parser.add_argument("run", type=str, help="run folder")


def app(parser: ArgumentParser) -> None:
    """Of serving the page."""
    parser.add_argument("--release", type=str, action="append", help=f"{RELEASES}; several times for several")
    _takes_runs(parser)
    _takes_base(parser)
    parser.add_argument("--host", type=str, default="127.0.0.1", help="address; 0.0.0.0 lets everybody on the net in")
    parser.add_argument("--port", type=int, default=7860)


def release_user(parser: ArgumentParser) -> None:
    """Of whoever uses a release."""
    parser.add_argument("--release", type=str, required=True, help=RELEASES)
    _takes_runs(parser)
    _takes_base(parser)


def _takes_base(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--base", type=str, default=None, help="base model folder or hub id, instead of the release's own"
    )
    parser.add_argument("--device", type=str, default=None, help="cpu, cuda, cuda:1; by default a GPU if there is one")
    parser.add_argument("--dtype", type=Precision | None, default=None, help="of the base, instead of the release's")


def tune(parser: ArgumentParser) -> None:
    """Of tuning."""
    release_user(parser)
    parser.add_argument(
        "--method", choices=METHODS, default="e4t", help="others start from the release's base alone; docs/methods.md"
    )
    parser.add_argument("--image", type=str, nargs="+", required=True, help="the picture, or several")
    parser.add_argument("--mask", type=str, nargs="+", help="for each a picture as large, white where the concept is")
    parser.add_argument(
        "--caption", type=str, nargs="+", help="of each what is not the concept: 'a portrait of a smiling *s'"
    )
    parser.add_argument("--start", type=str, default=None, help="concept folder whose learned word is taken up")
    parser.add_argument("--output", type=str, default="concept", help="concept folder; with --each, of concepts")
    parser.add_argument("--each", type=bool, default=False, help="a concept of each picture, instead of one of all")
    parser.add_argument("--cache-gib", type=float, default=10.0, help="of concepts kept in ~/.cache/e4t; 0 keeps none")
    for field in fields(TuneConfig):
        help_text = "instead of the release's own; docs/tuning.md"
        parser.add_argument(f"--{field.name}", type=Optional[field.type], default=None, help=help_text)  # noqa: UP045 - a type that mypy does not know


def export(parser: ArgumentParser) -> None:
    """Of writing a concept for diffusers."""
    parser.add_argument("--concept", type=str, required=True, help="concept folder")
    parser.add_argument("--called", type=str, default="<concept>", help="how prompts will call a learned word")
    parser.add_argument("--output", type=str, default="diffusers", help="folder")


def import_(parser: ArgumentParser) -> None:
    """Of reading what others have trained."""
    subcommands = parser.add_subcommands(dest="origin")
    for name, describe in {"diffusers": _from_diffusers, "mkshing": _from_mkshing}.items():
        sub = ArgumentParser(exit_on_error=False, description=describe.__doc__)
        describe(sub)
        subcommands.add_subcommand(name, sub, help=describe.__doc__)


def _from_diffusers(parser: ArgumentParser) -> None:
    """Learned embeddings or a low-rank change that diffusers or kohya's trainer has saved, as a concept."""
    parser.add_argument("--folder", type=str, required=True, help="with learned_embeds or pytorch_lora_weights inside")
    parser.add_argument("--release", type=str, required=True, help=f"of whose base the concept is: {RELEASES}")
    parser.add_argument("--base", type=str, default=None, help="base model folder or hub id, instead of the release's")
    parser.add_argument("--identifier", type=str, default="sks", help="how prompts speak of a low-rank change")
    parser.add_argument("--output", type=str, default="concept", help="concept folder")


def _from_mkshing(parser: ArgumentParser) -> None:
    """A pre-trained checkpoint of mkshing/e4t-diffusion, as a release; docs/import.md."""
    parser.add_argument("path", type=str, help="folder with weight_offsets.pt, encoder.pt and config.json")
    parser.add_argument("--output", type=str, required=True, help="release folder")
    parser.add_argument("--base", type=str, default=None, help="base model folder or hub id, instead of config.json's")
    parser.add_argument("--clip", type=str, default=None, help="picture tower's folder or hub id, likewise")
    parser.add_argument("--name", type=str, default=None, help="of the release; by default the folder's")
    parser.add_argument("--version", type=str, default="0.1.0", help="semantic version")


def generate(parser: ArgumentParser) -> None:
    """Of generating."""
    release_user(parser)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=None, help="instead of the release's own")
    parser.add_argument("--prompt", type=str, nargs="+", required=True, help="one or several; *s is the concept")
    parser.add_argument("--concept", type=str, default=None, help="concept folder")
    parser.add_argument("--guidance", type=float, default=None, help="instead of the release's own")
    parser.add_argument("--count", type=int, default=4, help="pictures, seeds counting up")
    parser.add_argument("--output", type=str, default="pictures", help="folder")
