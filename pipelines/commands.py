"""What each subcommand takes and does. Imports of seconds stand where they are used."""

import json
import os
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Optional, TypeVar

from jsonargparse import ArgumentParser, Namespace

from data_prep.config import PrepareConfig
from data_prep.faces import FacesConfig, draw_faces
from data_prep.files import write_whole
from data_prep.manifest import verify
from data_prep.status import status
from encoder.config import Precision, TuneConfig
from encoder.errors import ConfigError, ModelError
from pipelines.display import Bar, console, report_table, status_lines
from pipelines.errors import DONE, FAILED, RunError

if TYPE_CHECKING:
    from data_prep.executors import Executor
    from encoder.pipeline import E4TPipeline
    from pipelines.config import Recipe
    from pipelines.planning.plan import Plan

Settings = TypeVar("Settings")


def _takes_recipe(parser: ArgumentParser) -> None:
    from pipelines.config import Recipe

    parser.add_argument("--recipe", action="config", help="YAML file, or the name of a recipe that comes with e4t")
    parser.add_class_arguments(Recipe, as_group=False)


def _settings(kind: type[Settings], arguments: Namespace) -> Settings:
    """A configuration dataclass from parsed arguments, every part of it checked."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, as_group=False)
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    ready = parser.instantiate(Namespace({name: arguments[name] for name in names}))
    return kind(**{name: ready[name] for name in names})


def _recipe(arguments: Namespace) -> "Recipe":
    from pipelines.config import Recipe

    return _settings(Recipe, arguments)


def faces(arguments: Namespace, _: list[str]) -> None:
    """Draw the built-in domain: faces, as a folder of pictures with captions."""
    config = _settings(FacesConfig, arguments)
    with Bar("drawing faces") as bar:
        draw_faces(config, on_identity=bar)
    console.print(f"faces: {config.output}")


def prepare(arguments: Namespace, _: list[str]) -> int:
    """Turn pictures into shards; a rerun finishes what is missing."""
    from data_prep.prepare import merge_set, plan_set, prepare
    from data_prep.work import work

    config = _settings(PrepareConfig, arguments.data)
    if arguments.verify:
        return _verified(config)
    if arguments.status:
        console.print(*status_lines(config.output, status(config)), sep="\n")
        return DONE
    if arguments.stage == "plan":
        plan_set(config)
        return DONE
    if arguments.stage == "work":
        work(config, arguments.rank, arguments.world)
        return DONE
    with Bar("preparing shards") as bar:
        manifest = merge_set(config, bar) if arguments.stage == "merge" else prepare(config, _executor(arguments), bar)
    dropped = ", ".join(f"{count} {reason}" for reason, count in manifest.dropped.items()) or "none"
    console.print(f"shards: {config.output}  kept {manifest.kept}  dropped {dropped}  digest {manifest.digest[:12]}")
    return DONE


def _verified(config: PrepareConfig) -> int:
    damaged = list(verify(config.output))
    for line in damaged:
        console.print(line)
    console.print(f"{config.output}: {'damaged' if damaged else 'every shard is as it was written'}")
    return FAILED if damaged else DONE


def _executor(arguments: Namespace) -> "Executor":
    from data_prep.executors import LocalExecutor, RayExecutor

    if arguments.executor == "ray":
        return RayExecutor(workers=arguments.workers, address=arguments.address)
    return LocalExecutor(workers=arguments.workers)


def base(arguments: Namespace, raw: list[str]) -> int:
    """Train the tiny base model on the drawn faces, from scratch."""
    from pipelines.base.config import BaseConfig
    from pipelines.base.stage import train_base

    return train_base(_settings(BaseConfig, arguments), raw)


def cache(arguments: Namespace, raw: list[str]) -> int:
    """Compute what the frozen models see in every picture, once; a rerun finishes what is missing."""
    from data_prep.features import verify_features
    from pipelines.launch import inside_cluster, launch

    recipe = _recipe(arguments)
    if arguments.verify:
        damaged = list(verify_features(recipe.data.output, recipe.cache.folder))
        for line in damaged:
            console.print(line)
        return FAILED if damaged else DONE
    if not inside_cluster():
        return launch(raw, arguments.nproc)
    from pipelines.cache import cache as run

    with Bar("encoding pictures") as bar:
        run(recipe, bar if os.environ["RANK"] == "0" else None)
    return DONE


def pretrain(arguments: Namespace, raw: list[str]) -> int:
    """Pre-train the domain encoder and weight offsets; resumes from the newest complete checkpoint."""
    from pipelines.launch import inside_cluster, launch, on_this_device

    recipe = _recipe(arguments)
    if not inside_cluster():
        from data_prep.manifest import Manifest
        from pipelines.run import Run

        recipe.pretrain.passes(arguments.nproc)
        Manifest.load(recipe.data.output)
        Run.open(recipe, accept_changes=arguments.accept_changes)
        return launch(raw, arguments.nproc)
    on_this_device()
    from pipelines.pretrain import Sitting
    from pipelines.pretrain import pretrain as run

    return run(
        recipe,
        Sitting(max_minutes=arguments.max_minutes, profile=arguments.profile, accept_changes=arguments.accept_changes),
    )


def plan(arguments: Namespace, _: list[str]) -> None:
    """What a recipe takes on devices of a kind: memory by part, speed, hours, and what to change if it does not fit."""
    from pipelines.devices import DEVICES, device_named
    from pipelines.planning.pretraining import plan_pretraining
    from pipelines.planning.remedy import remedies
    from pipelines.planning.report import shown
    from pipelines.planning.tuning import plan_tuning

    recipe, device = _recipe(arguments), device_named(arguments.device)
    if device is None:
        raise ConfigError(f"no device {arguments.device}; give one of {', '.join(each.name for each in DEVICES)}")
    stages: list[Callable[[Recipe], Plan]] = [
        lambda recipe: plan_pretraining(recipe, device, arguments.devices),
        lambda recipe: plan_tuning(recipe, device),
    ]
    plans = []
    for stage in stages:
        plans.append(stage(recipe))
        console.print(shown(plans[-1], *remedies(recipe, plans[-1], stage)), soft_wrap=True)
    if arguments.json:
        write_whole(Path(arguments.json), json.dumps([each.plain() for each in plans], indent=1) + "\n")


def release(arguments: Namespace, _: list[str]) -> None:
    """Make a release folder of a run's newest checkpoint and register it in MLflow as ``candidate``."""
    from pipelines.release import make_release, register

    recipe = _recipe(arguments)
    made = make_release(recipe, Path(arguments.output or recipe.folder / "release"), arguments.version)
    console.print(f"release: {made.folder}  {made.name} {made.version}")
    if arguments.register:
        try:
            console.print(f"registered: models:/{made.name}/{register(made, recipe.runs)}  alias candidate")
        except RunError as error:  # the release is whole; a registry that is away costs a line
            console.print(f"not registered: {error}")


def evaluate(arguments: Namespace, _: list[str]) -> None:
    """Personalise held-out drawn people, with and without pre-training; ends in grid.png and report.json."""
    from pipelines.evaluate import evaluate as run

    recipe = _recipe(arguments)
    output = Path(arguments.output or recipe.folder / "evaluation")
    with Bar("personalising held-out people") as bar:
        report = run(recipe, Path(arguments.release or recipe.folder / "release"), output, bar)
    console.print(report_table(report))
    console.print(f"picture: {output / 'grid.png'}  numbers: {output / 'report.json'}")


def tune(arguments: Namespace, _: list[str]) -> None:
    """Teach a release one picture; the concept is written as a folder."""
    from encoder.pipeline import open_image

    image = open_image(arguments.image)
    mask = open_image(arguments.mask) if arguments.mask else None
    if Path(arguments.output).exists():
        raise ModelError(f"{arguments.output} exists; give another --output or delete it")
    settings = {field.name: arguments[field.name] for field in fields(TuneConfig)}
    settings = {name: value for name, value in settings.items() if value is not None}
    TuneConfig(**settings)  # refuses what is out of range before anything is loaded
    pipe = _opened(arguments)
    with Bar("tuning") as bar:
        total = settings.get("steps", pipe.tune_config.steps)
        concept = pipe.tune(
            image, mask=mask, caption=arguments.caption, on_step=lambda step, _: bar(step, total), **settings
        )
    console.print(f"concept: {concept.save(arguments.output)}")


def generate(arguments: Namespace, _: list[str]) -> None:
    """Make pictures of a concept, or of the release's domain."""
    pipe = _opened(arguments)
    if arguments.concept:
        pipe.load_concept(arguments.concept)
    with Bar("sampling") as bar:
        images = pipe(
            [arguments.prompt] * arguments.count,
            seed=arguments.seed,
            steps=arguments.steps,
            guidance=arguments.guidance,
            on_step=bar,
        )
    folder = Path(arguments.output)
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images):
        image.save(folder / f"{arguments.seed + index:04d}.png")
        console.print(f"picture: {folder / f'{arguments.seed + index:04d}.png'}")


def _opened(arguments: Namespace) -> "E4TPipeline":
    from encoder import pipeline

    return pipeline.E4TPipeline.from_pretrained(
        arguments.release, base=arguments.base, device=arguments.device, dtype=arguments.dtype
    )


def quickstart(arguments: Namespace, _: list[str]) -> int:
    """Everything once, on this machine: draw, prepare, pre-train, release, personalise, look."""
    from pipelines.quickstart import quickstart as run

    return run(_recipe(arguments), nproc=arguments.nproc)


def _faces_arguments(parser: ArgumentParser) -> None:
    parser.add_class_arguments(FacesConfig, as_group=False)


def _base_arguments(parser: ArgumentParser) -> None:
    from pipelines.base.config import BaseConfig

    parser.add_class_arguments(BaseConfig, as_group=False)


def _prepare_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--recipe", action="config", help="as elsewhere; of it only ``data`` is needed")
    parser.add_class_arguments(PrepareConfig, "data")
    parser.add_argument("--executor", choices=["local", "ray"], default="local", help="where the ranks run")
    parser.add_argument("--workers", type=int, default=0, help="ranks; 0 for one a core")
    parser.add_argument("--address", type=str, default=None, help="of a Ray cluster")
    parser.add_argument(
        "--stage", choices=["all", "plan", "work", "merge"], default="all", help="one part alone, for a scheduler"
    )
    parser.add_argument("--rank", type=int, default=_scheduled_rank(), help="of --stage work; the scheduler's, if any")
    parser.add_argument("--world", type=int, default=1, help="ranks of --stage work")
    parser.add_argument("--verify", action="store_true", help="recheck every shard instead")
    parser.add_argument("--status", action="store_true", help="tell how far a running or finished job is instead")


def _scheduled_rank() -> int:
    """This task's number in a SLURM array or a Kubernetes Indexed Job, counted from 0."""
    return int(os.environ.get("SLURM_ARRAY_TASK_ID") or os.environ.get("JOB_COMPLETION_INDEX") or 0)


def _ranks_arguments(parser: ArgumentParser, nproc: int = 1) -> None:
    _takes_recipe(parser)
    parser.add_argument("--nproc", type=int, default=nproc, help="processes to start here, one a device")


def _pretrain_arguments(parser: ArgumentParser) -> None:
    _ranks_arguments(parser)
    parser.add_argument(
        "--max-minutes", type=float, default=None, help="save and end with exit code 75 (start me again) after so long"
    )
    parser.add_argument("--profile", type=bool, default=False, help="write a trace of a few steps to <run>/profile")
    parser.add_argument(
        "--accept-changes", type=bool, default=False, help="go on although recipe or data are not those of the start"
    )


def _plan_arguments(parser: ArgumentParser) -> None:
    _takes_recipe(parser)
    parser.add_argument("--devices", type=int, default=1, help="of pre-training; tuning takes one")
    parser.add_argument("--device", type=str, default="H100", help="H100, A100, L4, RTX 4090, cpu, ...")
    parser.add_argument("--json", type=str, default=None, help="file for the plans")


def _cache_arguments(parser: ArgumentParser) -> None:
    _ranks_arguments(parser)
    parser.add_argument("--verify", action="store_true", help="recheck every file instead")


def _release_arguments(parser: ArgumentParser) -> None:
    _takes_recipe(parser)
    parser.add_argument("--version", type=str, default="0.1.0", help="semantic version")
    parser.add_argument("--output", type=str, default=None, help="release folder; by default <run>/release")
    parser.add_argument("--register", type=bool, default=True, help="register the version in MLflow")


def _evaluate_arguments(parser: ArgumentParser) -> None:
    _takes_recipe(parser)
    parser.add_argument("--release", type=str, default=None, help="release folder; by default <run>/release")
    parser.add_argument(
        "--output", type=str, default=None, help="folder for grid.png and report.json; by default <run>/evaluation"
    )


def _release_user_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--release", type=str, required=True, help="release folder")
    parser.add_argument(
        "--base", type=str, default=None, help="base model folder or hub id, instead of the release's own"
    )
    parser.add_argument("--device", type=str, default=None, help="cpu, cuda, cuda:1; by default a GPU if there is one")
    parser.add_argument("--dtype", type=Precision | None, default=None, help="of the base, instead of the release's")


def _tune_arguments(parser: ArgumentParser) -> None:
    _release_user_arguments(parser)
    parser.add_argument("--image", type=str, required=True, help="the one picture")
    parser.add_argument("--mask", type=str, default=None, help="a picture as large, white where the concept is")
    parser.add_argument(
        "--caption", type=str, default=None, help="what is not the concept: 'a portrait of a smiling *s in a red shirt'"
    )
    parser.add_argument("--output", type=str, default="concept", help="concept folder")
    for field in fields(TuneConfig):
        help_text = "instead of the release's own; docs/tuning.md"
        parser.add_argument(f"--{field.name}", type=Optional[field.type], default=None, help=help_text)  # noqa: UP045 - a type that mypy does not know


def _generate_arguments(parser: ArgumentParser) -> None:
    _release_user_arguments(parser)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=None, help="instead of the release's own")
    parser.add_argument("--prompt", type=str, required=True, help="*s stands for the concept")
    parser.add_argument("--concept", type=str, default=None, help="concept folder")
    parser.add_argument("--guidance", type=float, default=None, help="instead of the release's own")
    parser.add_argument("--count", type=int, default=4, help="pictures, seeds counting up")
    parser.add_argument("--output", type=str, default="pictures", help="folder")


Describe = Callable[[ArgumentParser], None]
Command = Callable[[Namespace, list[str]], int | None]
COMMANDS: dict[str, tuple[Describe, Command]] = {
    "quickstart": (partial(_ranks_arguments, nproc=2), quickstart),
    "faces": (_faces_arguments, faces),
    "base": (_base_arguments, base),
    "prepare": (_prepare_arguments, prepare),
    "cache": (_cache_arguments, cache),
    "plan": (_plan_arguments, plan),
    "pretrain": (_pretrain_arguments, pretrain),
    "release": (_release_arguments, release),
    "evaluate": (_evaluate_arguments, evaluate),
    "tune": (_tune_arguments, tune),
    "generate": (_generate_arguments, generate),
}
