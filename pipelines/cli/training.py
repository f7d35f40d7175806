"""Commands around pre-training: doctor, plan, pretrain."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from e4t_errors import ConfigError
from pipelines.cli.common import Command, CommandParser, add_launch_arguments, add_recipe_arguments, parse_recipe
from pipelines.errors import EXIT_FAILURE, EXIT_OK
from pipelines.runtime.console import ProgressBar, console

if TYPE_CHECKING:
    from pipelines.config.recipe import Recipe
    from pipelines.planning.plan import Plan


def add_pretrain_arguments(parser: CommandParser) -> None:
    """Add the options of ``e4t pretrain``."""
    parser.add_argument(
        "--max-minutes",
        type=float,
        default=None,
        help="Save a checkpoint and exit with code 75 (rerun to resume) after this many minutes.",
    )
    parser.add_argument("--profile", action="store_true", help="Write a trace of a few steps to <run>/profile.")
    parser.add_argument(
        "--allow-config-change",
        action="store_true",
        help="Resume although the recipe or the dataset differs from that of the run.",
    )
    add_launch_arguments(parser)


def pretrain(arguments: Namespace, raw: list[str]) -> int:
    """Pre-train the domain encoder and the weight offsets. Resumes from the latest complete checkpoint."""
    from pipelines.runtime.launch import is_distributed_worker, launch, node_rank, num_nodes

    recipe = parse_recipe(arguments)
    if not is_distributed_worker():
        from data_prep.shards.manifest import Manifest
        from pipelines.pretraining.run_folder import Run

        recipe.pretrain.micro_batch_split(num_nodes() * arguments.nproc)
        Manifest.load(recipe.data.output)
        Run.open(recipe, node_rank(), allow_config_change=arguments.allow_config_change)
        return launch(raw, arguments.nproc)
    from pipelines.pretraining.pretrain import RunOptions
    from pipelines.pretraining.pretrain import pretrain as run

    options = RunOptions(
        max_minutes=arguments.max_minutes,
        profile=arguments.profile,
        allow_config_change=arguments.allow_config_change,
    )
    return run(recipe, options)


def add_plan_arguments(parser: CommandParser) -> None:
    """Add the options of ``e4t plan``."""
    parser.add_argument("--devices", type=int, default=1, help="Number of devices of pre-training; tuning uses one.")
    parser.add_argument("--device", type=str, default="H100", help="Device model: H100, A100, L4, RTX 4090, cpu, ...")
    parser.add_argument("--json", type=str, default=None, help="File that gets the plans as JSON.")
    add_recipe_arguments(parser)


def plan(arguments: Namespace, _: list[str]) -> None:
    """Estimate memory by part, speed and hours of a recipe on a device, and suggest changes if it does not fit."""
    from pipelines.planning.pretraining import plan_pretraining
    from pipelines.planning.report import format_plan
    from pipelines.planning.suggestions import suggest_overrides
    from pipelines.planning.tuning import plan_tuning
    from pipelines.runtime.device_specs import DEVICES, find_device

    recipe, device = parse_recipe(arguments), find_device(arguments.device)
    if device is None:
        known = ", ".join(each.name for each in DEVICES)
        raise ConfigError(f"--device {arguments.device} is unknown; give one of {known}")
    stages: list[Callable[[Recipe], Plan]] = [
        lambda recipe: plan_pretraining(recipe, device, arguments.devices),
        lambda recipe: plan_tuning(recipe, device),
    ]
    plans = []
    for stage in stages:
        plans.append(stage(recipe))
        console.print(format_plan(plans[-1], *suggest_overrides(recipe, plans[-1], stage)), soft_wrap=True)
    if arguments.json:
        _write_json(arguments.json, [each.to_dict() for each in plans])


def _write_json(path: str, rows: list[dict[str, object]]) -> None:
    from data_prep.storage.atomic import atomic_write

    atomic_write(Path(path), json.dumps(rows, indent=1) + "\n")


def add_doctor_arguments(parser: CommandParser) -> None:
    """Add the options of ``e4t doctor``."""
    parser.add_argument(
        "--runs", type=str, default="runs", help="Folder of all runs, whose disk and MLflow are checked."
    )
    parser.add_argument(
        "--nproc",
        type=int,
        default=None,
        help="Number of ranks that would train on this machine; by default one per GPU, or 2 without GPUs.",
    )
    parser.add_argument("--json", type=str, default=None, help="File that gets the results as JSON.")


def doctor(arguments: Namespace, _: list[str]) -> int:
    """Check this machine: packages, devices, memory, collectives, disk, MLflow, Hub and schedulers."""
    from pipelines.doctor.check import JobRequirements
    from pipelines.doctor.checks import CHECKS
    from pipelines.doctor.devices import count_gpus
    from pipelines.doctor.report import format_results
    from pipelines.doctor.runner import run_checks

    if arguments.nproc is not None and arguments.nproc < 1:
        raise ConfigError(f"--nproc is {arguments.nproc}; give at least 1")
    requirements = JobRequirements(runs=Path(arguments.runs), nproc=arguments.nproc or count_gpus() or 2)
    with ProgressBar("running checks") as bar:
        results = run_checks(CHECKS, requirements, bar)
    console.print(format_results(results))
    if arguments.json:
        _write_json(arguments.json, [asdict(each) for each in results])
    return EXIT_FAILURE if any(each.status == "fail" for each in results) else EXIT_OK


_RUN_KEYS = ("name", "runs", "base.model", "data.output", "conditioning.domain_word", "conditioning.templates")
DOCTOR = Command(
    name="doctor",
    summary="Check that this machine can run the jobs",
    add_arguments=add_doctor_arguments,
    run=doctor,
)
PLAN = Command(
    name="plan",
    summary="Estimate memory, speed and hours of a recipe",
    add_arguments=add_plan_arguments,
    run=plan,
    usual_keys=(
        "base.model",
        "base.dtype",
        "data.resolution",
        "pretrain.max_steps",
        "pretrain.global_batch_size",
        "pretrain.micro_batch_size",
        "pretrain.offset_type",
        "pretrain.zero_stage",
        "pretrain.precision",
        "pretrain.gradient_checkpointing",
        "tune.trainable",
        "tune.micro_batch_size",
    ),
)
PRETRAIN = Command(
    name="pretrain",
    summary="Pre-train the domain encoder and weight offsets",
    add_arguments=add_pretrain_arguments,
    run=pretrain,
    kept_when_interrupted="saved checkpoints",
    usual_keys=(
        *_RUN_KEYS,
        "seed",
        "pretrain.max_steps",
        "pretrain.global_batch_size",
        "pretrain.micro_batch_size",
        "pretrain.learning_rate",
        "pretrain.offset_type",
        "pretrain.lr_schedule",
        "pretrain.warmup_steps",
        "pretrain.regularization_weight",
        "pretrain.zero_stage",
        "pretrain.precision",
        "pretrain.gradient_checkpointing",
        "pretrain.use_feature_cache",
        "pretrain.checkpoint_every",
        "pretrain.eval_every",
        "stream.num_workers",
    ),
)
