"""What each subcommand does. Imports of seconds stand where they are used."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from jsonargparse import ArgumentParser, Namespace

from data_prep.config import PrepareConfig
from data_prep.prepare.status import status
from data_prep.shards.manifest import verify_shards
from data_prep.storage.atomic import atomic_write
from data_prep.synthetic.emoji import EmojiConfig, build_emoji_dataset
from data_prep.synthetic.faces import FacesConfig, generate_faces
from e4t import ConfigError
from encoder.config import TuneConfig
from pipelines.cli import options
from pipelines.cli.tables import report_table, status_lines
from pipelines.errors import EXIT_FAILURE, EXIT_OK, RunError
from pipelines.runtime.console import ProgressBar, console

if TYPE_CHECKING:
    from data_prep.prepare.executors import Executor
    from encoder.pipeline import E4TPipeline
    from pipelines.config.recipe import Recipe
    from pipelines.planning.plan import Plan

Settings = TypeVar("Settings")
BUILT_IN = "models/faces"
"""The release that comes with a checkout."""


def _settings(kind: type[Settings], arguments: Namespace) -> Settings:
    """A configuration dataclass from parsed arguments, every part of it checked."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, as_group=False)
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    ready = parser.instantiate(Namespace({name: arguments[name] for name in names}))
    return kind(**{name: ready[name] for name in names})


def _recipe(arguments: Namespace) -> "Recipe":
    from pipelines.config.recipe import Recipe

    return _settings(Recipe, arguments)


def faces(arguments: Namespace, _: list[str]) -> None:
    """Draw the built-in domain: faces, as a folder of pictures with captions."""
    config = _settings(FacesConfig, arguments)
    with ProgressBar("drawing faces") as bar:
        generate_faces(config, on_progress=bar)
    console.print(f"faces: {config.output}")


def emoji(arguments: Namespace, _: list[str]) -> None:
    """Lay out a second domain: emoji of two houses, from the packages that npm pack fetches."""
    config = _settings(EmojiConfig, arguments)
    with ProgressBar("laying out emoji") as bar:
        build_emoji_dataset(config, on_progress=bar)
    console.print(f"emoji: {config.output}")


def prepare(arguments: Namespace, _: list[str]) -> int:
    """Turn pictures into shards; a rerun finishes what is missing."""
    from data_prep.prepare.pipeline import merge_dataset, plan_dataset, prepare
    from data_prep.prepare.worker import run_worker

    config = _settings(PrepareConfig, arguments.data)
    if arguments.verify:
        return _verified(config)
    if arguments.status:
        console.print(*status_lines(config.output, status(config)), sep="\n")
        return EXIT_OK
    if arguments.stage == "plan":
        plan_dataset(config)
        return EXIT_OK
    if arguments.stage == "work":
        run_worker(config, arguments.rank, arguments.world)
        return EXIT_OK
    with ProgressBar("preparing shards") as bar:
        manifest = (
            merge_dataset(config, bar) if arguments.stage == "merge" else prepare(config, _executor(arguments), bar)
        )
    if arguments.runs:
        from pipelines.tracking.stage_runs import log_dataset

        log_dataset(config, manifest, Path(arguments.runs))
    dropped = ", ".join(f"{count} {reason}" for reason, count in manifest.reject_counts.items()) or "none"
    console.print(f"shards: {config.output}  kept {manifest.kept}  dropped {dropped}  digest {manifest.digest[:12]}")
    return EXIT_OK


def _verified(config: PrepareConfig) -> int:
    damaged = list(verify_shards(config.output))
    for line in damaged:
        console.print(line)
    console.print(f"{config.output}: {'damaged' if damaged else 'every shard is as it was written'}")
    return EXIT_FAILURE if damaged else EXIT_OK


def _executor(arguments: Namespace) -> "Executor":
    from data_prep.prepare.executors import LocalExecutor, RayExecutor

    if arguments.executor == "ray":
        return RayExecutor(workers=arguments.workers, address=arguments.address)
    return LocalExecutor(workers=arguments.workers)


def base(arguments: Namespace, raw: list[str]) -> int:
    """Train the tiny base model on the drawn faces, from scratch."""
    from pipelines.tiny_base.config import BaseConfig
    from pipelines.tiny_base.train import train_base

    return train_base(_settings(BaseConfig, arguments), raw)


def cache(arguments: Namespace, raw: list[str]) -> int:
    """Compute what the frozen models see in every picture, once; a rerun finishes what is missing."""
    from data_prep.shards.features import verify_features
    from pipelines.runtime.launch import is_distributed_worker, launch

    recipe = _recipe(arguments)
    if arguments.verify:
        damaged = list(verify_features(recipe.data.output, recipe.cache.folder))
        for line in damaged:
            console.print(line)
        return EXIT_FAILURE if damaged else EXIT_OK
    rank, world = arguments.rank, arguments.world
    if arguments.stage == "all":
        if not is_distributed_worker():
            return launch(raw, arguments.nproc)
        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    from pipelines.pretraining.feature_cache import cache as run

    with ProgressBar("encoding pictures") as bar:
        run(recipe, rank, world, bar if rank == 0 else None)
    return EXIT_OK


def pretrain(arguments: Namespace, raw: list[str]) -> int:
    """Pre-train the domain encoder and weight offsets; resumes from the newest complete checkpoint."""
    from pipelines.runtime.launch import is_distributed_worker, launch, node_rank, num_nodes

    recipe = _recipe(arguments)
    if not is_distributed_worker():
        from data_prep.shards.manifest import Manifest
        from pipelines.pretraining.run_folder import Run

        recipe.pretrain.micro_batch_split(num_nodes() * arguments.nproc)
        Manifest.load(recipe.data.output)
        Run.open(recipe, node_rank(), allow_config_change=arguments.accept_changes)
        return launch(raw, arguments.nproc)
    from pipelines.pretraining.pretrain import RunOptions
    from pipelines.pretraining.pretrain import pretrain as run

    return run(
        recipe,
        RunOptions(
            max_minutes=arguments.max_minutes, profile=arguments.profile, allow_config_change=arguments.accept_changes
        ),
    )


def plan(arguments: Namespace, _: list[str]) -> None:
    """What a recipe takes on devices of a kind: memory by part, speed, hours, and what to change if it does not fit."""
    from pipelines.planning.pretraining import plan_pretraining
    from pipelines.planning.report import format_plan
    from pipelines.planning.suggestions import suggest_overrides
    from pipelines.planning.tuning import plan_tuning
    from pipelines.runtime.device_specs import DEVICES, find_device

    recipe, device = _recipe(arguments), find_device(arguments.device)
    if device is None:
        raise ConfigError(f"no device {arguments.device}; give one of {', '.join(each.name for each in DEVICES)}")
    stages: list[Callable[[Recipe], Plan]] = [
        lambda recipe: plan_pretraining(recipe, device, arguments.devices),
        lambda recipe: plan_tuning(recipe, device),
    ]
    plans = []
    for stage in stages:
        plans.append(stage(recipe))
        console.print(format_plan(plans[-1], *suggest_overrides(recipe, plans[-1], stage)), soft_wrap=True)
    if arguments.json:
        atomic_write(Path(arguments.json), json.dumps([each.to_dict() for each in plans], indent=1) + "\n")


def doctor(arguments: Namespace, _: list[str]) -> int:
    """Whether this machine can do the job: packages, devices, memory, ranks, disk, MLflow, hub, schedulers."""
    from pipelines.doctor.check import JobRequirements
    from pipelines.doctor.checks import CHECKS
    from pipelines.doctor.devices import count_gpus
    from pipelines.doctor.report import format_results
    from pipelines.doctor.runner import run_checks

    if arguments.nproc is not None and arguments.nproc < 1:
        raise ConfigError(f"--nproc is {arguments.nproc}; give at least 1")
    needs = JobRequirements(runs=Path(arguments.runs), nproc=arguments.nproc or count_gpus() or 2)
    with ProgressBar("looking") as bar:
        findings = run_checks(CHECKS, needs, bar)
    console.print(format_results(findings))
    if arguments.json:
        atomic_write(Path(arguments.json), json.dumps([asdict(each) for each in findings], indent=1) + "\n")
    return EXIT_FAILURE if any(each.status == "fail" for each in findings) else EXIT_OK


def release(arguments: Namespace, _: list[str]) -> None:
    """Make a release folder of a run's checkpoint, and register it in MLflow as ``candidate``."""
    from pipelines.release.build import make_release
    from pipelines.release.checkpoint_selection import select_checkpoint
    from pipelines.release.registration import register

    recipe = _recipe(arguments)
    checkpoint = select_checkpoint(recipe, arguments.checkpoint, arguments.by)
    output = Path(arguments.output or recipe.folder / "release")
    made = make_release(recipe, output, arguments.version, checkpoint, allow_dirty=arguments.allow_dirty)
    console.print(f"release: {made.folder}  {made.id}  {checkpoint.name}", soft_wrap=True)
    if arguments.register:
        try:
            console.print(f"registered: models:/{made.name}/{register(recipe, made)}  alias candidate")
        except RunError as error:  # the release is whole; a registry that is away costs a line
            console.print(f"not registered: {error}", soft_wrap=True)
    if arguments.push:
        from pipelines.release.hub_push import push

        console.print(f"pushed: {push(made, arguments.push, private=arguments.private)}", soft_wrap=True)


def promote(arguments: Namespace, _: list[str]) -> None:
    """Move an alias, such as ``champion``, to a registered version; rolling back is the same with an earlier one."""
    from pipelines.release.registration import promote as move

    before, now = move(arguments.name, arguments.version, arguments.to, Path(arguments.runs))
    console.print(f"{arguments.name}@{arguments.to}: {before or 'none'} -> {now}")
    if before not in (None, now):
        console.print(f"back: e4t promote {arguments.name} {before} --to {arguments.to}", soft_wrap=True)


def lineage(arguments: Namespace, _: list[str]) -> int:
    """Where a release comes from, back to the sources of its data; every digest that can be reached is verified."""
    from pipelines.release.lineage import DIFFERS, lineage_of

    links = []
    for link in lineage_of(arguments.release, Path(arguments.runs), base=arguments.base):
        console.print(link.format(), markup=False, soft_wrap=True)
        links.append(link)
    return EXIT_FAILURE if any(link.status == DIFFERS for link in links) else EXIT_OK


def evaluate(arguments: Namespace, _: list[str]) -> None:
    """Personalise held-out concepts, with and without pre-training; ends in grid.png and report.json."""
    from pipelines.evaluation.evaluate import evaluate as run
    from pipelines.registry.resolve import resolve_release
    from pipelines.release.build import candidate_release

    recipe = _recipe(arguments)
    output = Path(arguments.output or recipe.folder / "evaluation")
    release = resolve_release(arguments.release, recipe.runs) if arguments.release else candidate_release(recipe)
    with ProgressBar("personalising held-out concepts") as bar:
        report = run(recipe, release, output, bar)
    console.print(report_table(report))
    console.print(f"picture: {output / 'grid.png'}  numbers: {output / 'report.json'}")


def compare(arguments: Namespace, _: list[str]) -> None:
    """Hold methods of personalisation beside each other; ends in figure, plots, table and report.html."""
    from pipelines.evaluation.compare import build_comparison, present
    from pipelines.evaluation.runner import run_local
    from pipelines.registry.resolve import resolve_release

    recipe = _recipe(arguments)
    release = resolve_release(arguments.release or str(recipe.folder / "release"), recipe.runs)
    comparison = build_comparison(recipe, release, Path(arguments.output or recipe.folder / "comparison"))
    if arguments.stage == "work":
        comparison.run(arguments.rank, arguments.world)
        return
    if arguments.stage == "all":
        with ProgressBar("personalising held-out concepts") as bar:
            run_local(comparison, bar)
    with ProgressBar("measuring") as bar:
        report = present(comparison, release, bar)
    console.print(report_table(report))
    console.print(f"figure: {comparison.output / 'figure.png'}  page: {comparison.output / 'report.html'}")


def submit(arguments: Namespace, _: list[str]) -> None:
    """Send a stage, or all of them one after the other, to a cluster; docs/slurm.md, docs/kubernetes.md."""
    from pipelines.cluster.jobs import jobs_for_stage
    from pipelines.cluster.schedulers import SCHEDULERS
    from pipelines.cluster.submission import next_folder, snapshot_files

    scheduler, arguments = SCHEDULERS[arguments.scheduler], arguments[arguments.scheduler]
    recipe, site = _recipe(arguments), _settings(scheduler.Site, arguments.site)
    recipe.pretrain.micro_batch_split(arguments.nodes * site.devices_per_node)
    jobs = jobs_for_stage(
        arguments.job,
        nodes=arguments.nodes,
        array_size=arguments.tasks,
        use_feature_cache=recipe.pretrain.use_feature_cache,
        extra_args=arguments.extra,
    )
    submission = scheduler.build_submission(
        jobs, site, next_folder(recipe, arguments.job), recipe.name, snapshot_files(recipe)
    )
    if arguments.dry_run:
        for name, text in submission.files.items():
            console.file.write(f"--- {submission.folder / name}\n{text}\n")  # print would make pictures of :these:
        return
    submission.write()
    for name, ids in scheduler.send(submission).items():
        console.print(f"sent: {name}  {', '.join(ids)}", soft_wrap=True)
    console.print(f"submission: {submission.folder}  look: e4t status {recipe.folder}", soft_wrap=True)


def status_(arguments: Namespace, _: list[str]) -> None:
    """Where a run is: its jobs by the scheduler, its shards and steps by their folders."""
    from pipelines.cluster.status import run_status_lines

    for line in run_status_lines(Path(arguments.run)):
        console.print(line, markup=False, soft_wrap=True)


def tune(arguments: Namespace, _: list[str]) -> None:
    """Teach a release one picture, or several; a concept is written as a folder."""
    from encoder.releases.release import Release
    from pipelines.registry.resolve import cache_folder, resolve_release
    from pipelines.tuning import ConceptCache, TuneRequest, split_per_image, tune_all

    settings = {field.name: arguments[field.name] for field in fields(TuneConfig)}
    settings = {name: value for name, value in settings.items() if value is not None}
    order = TuneRequest.from_files(
        images=arguments.image,
        masks=arguments.mask,
        captions=arguments.caption,
        output=Path(arguments.output),
        init_concept=arguments.start,
        method=arguments.method,
        settings=settings,
    )
    orders = list(split_per_image(order)) if arguments.each else [order]
    release = Release.open(resolve_release(arguments.release, arguments.runs))
    bare, cache = arguments.method != "e4t", ConceptCache(cache_folder() / "concepts", int(arguments.cache_gib * 2**30))

    def opened() -> "E4TPipeline":
        return _opened(arguments, bare=bare)

    with ProgressBar("tuning") as bar:
        for made in tune_all(orders, release, opened, cache, bar, [arguments.base, arguments.dtype]):
            spent = f"{made.seconds:.1f} s" if made.seconds else "tuned before"
            bar.print(f"concept: {made.folder}  {spent}")


def export(arguments: Namespace, _: list[str]) -> None:
    """Write a concept as the files that diffusers loads, if it is a learned word, a low-rank change, or both."""
    from encoder.concepts.concept import Concept
    from encoder.concepts.diffusers_io import to_diffusers

    for path in to_diffusers(Concept.load(arguments.concept), arguments.output, token=arguments.called):
        console.print(f"written: {path}")


def import_(arguments: Namespace, _: list[str]) -> None:
    """Read what others have trained: concepts of diffusers and kohya's trainer, domain encoders of e4t-diffusion."""
    {"diffusers": _import_diffusers, "mkshing": _import_mkshing}[arguments.origin](arguments[arguments.origin])


def _import_diffusers(arguments: Namespace) -> None:
    from encoder.concepts.diffusers_io import from_diffusers
    from encoder.pipeline import base_only_id
    from encoder.releases.release import Release
    from pipelines.registry.resolve import resolve_release

    base = Release.open(resolve_release(arguments.release)).backbone_config(arguments.base)
    concept = from_diffusers(arguments.folder, release=base_only_id(base), rare_token=arguments.identifier)
    console.print(f"concept: {concept.save(arguments.output)}")


def _import_mkshing(arguments: Namespace) -> None:
    from pipelines.release.import_mkshing import import_release

    path, output = Path(arguments.path), Path(arguments.output)
    name = arguments.name or path.resolve().name
    made = import_release(path, output, name, arguments.version, base=arguments.base, image_encoder=arguments.clip)
    console.print(f"release: {made.folder}  {made.name} {made.version}")


def generate(arguments: Namespace, _: list[str]) -> None:
    """Make pictures of a concept, or of the release's domain."""
    from encoder.concepts.concept import Concept
    from encoder.model.sampling import seeded_generators
    from encoder.pipeline import BASE_ONLY

    concept = Concept.load(arguments.concept) if arguments.concept else None
    pipe = _opened(arguments, bare=concept is not None and concept.release.startswith(BASE_ONLY))
    if concept:
        pipe.load_concept(concept)
    folder = Path(arguments.output)
    folder.mkdir(parents=True, exist_ok=True)
    for index, prompt in enumerate(arguments.prompt):
        began = time.monotonic()
        total = pipe.sample_config.num_inference_steps if arguments.steps is None else arguments.steps
        with ProgressBar("sampling") as bar:
            images = pipe(
                [prompt] * arguments.count,
                generator=seeded_generators(arguments.seed, arguments.count),
                num_inference_steps=arguments.steps,
                guidance_scale=arguments.guidance,
                callback_on_step_end=_step_progress(bar, total),
            )
        for seed, image in enumerate(images, arguments.seed):
            path = folder / (f"{index:02d}-{seed:04d}.png" if len(arguments.prompt) > 1 else f"{seed:04d}.png")
            image.save(path)
            console.print(f"picture: {path}", soft_wrap=True)
        console.print(f"{len(images)} pictures in {time.monotonic() - began:.1f} s")


def _step_progress(bar: "ProgressBar", total: int) -> Callable[..., dict[str, Any]]:
    """Return a ``callback_on_step_end`` that advances a progress bar."""

    def on_step_end(_pipe: object, step_index: int, _timestep: object, tensors: dict[str, Any]) -> dict[str, Any]:
        bar(step_index + 1, total)
        return tensors

    return on_step_end


def app(arguments: Namespace, _: list[str]) -> None:
    """Serve a page where a person teaches a release one picture and paints; docs/app.md."""
    from importlib.util import find_spec

    if find_spec("gradio") is None:
        raise ConfigError("the page needs Gradio; pip install 'e4t[app]'")
    from pipelines.app.backend import TuningBackend
    from pipelines.app.server import serve
    from pipelines.registry.resolve import resolve_release

    releases = [resolve_release(place, arguments.runs) for place in arguments.release or [BUILT_IN]]
    serve(
        TuningBackend(releases, base=arguments.base, device=arguments.device, dtype=arguments.dtype),
        arguments.host,
        arguments.port,
    )


def _opened(arguments: Namespace, *, bare: bool) -> "E4TPipeline":
    from encoder import pipeline
    from pipelines.registry.resolve import resolve_release

    began = time.monotonic()
    pipe = pipeline.E4TPipeline.from_pretrained(
        resolve_release(arguments.release, arguments.runs),
        base=arguments.base,
        device=arguments.device,
        dtype=arguments.dtype,
        base_only=bare,
    )
    console.print(f"opened: {arguments.release}  {time.monotonic() - began:.1f} s", soft_wrap=True)
    return pipe


def quickstart(arguments: Namespace, _: list[str]) -> int:
    """Everything once, on this machine: draw, prepare, pre-train, personalise, release, look."""
    from pipelines.cli.quickstart import quickstart as run

    return run(_recipe(arguments), nproc=arguments.nproc)


Describe = Callable[[ArgumentParser], None]
Command = Callable[[Namespace, list[str]], int | None]
COMMANDS: dict[str, tuple[Describe, Command]] = {
    "quickstart": (partial(options.ranks, nproc=2), quickstart),
    "faces": (options.faces, faces),
    "emoji": (options.emoji, emoji),
    "base": (options.base, base),
    "prepare": (options.prepare, prepare),
    "cache": (options.cache, cache),
    "doctor": (options.doctor, doctor),
    "plan": (options.plan, plan),
    "pretrain": (options.pretrain, pretrain),
    "release": (options.release, release),
    "promote": (options.promote, promote),
    "lineage": (options.lineage, lineage),
    "evaluate": (options.evaluate, evaluate),
    "compare": (options.compare, compare),
    "submit": (options.submit, submit),
    "status": (options.status, status_),
    "tune": (options.tune, tune),
    "generate": (options.generate, generate),
    "app": (options.app, app),
    "export": (options.export, export),
    "import": (options.import_, import_),
}
