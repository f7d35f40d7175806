"""Run a comparison: every rank tunes and samples its share of the concepts, one system after the other."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from data_prep.processes import run_processes
from encoder.config import TuneConfig
from encoder.model.losses import Losses
from encoder.model.sampling import seeded_generators
from encoder.pipeline import E4TPipeline
from encoder.placeholder import replace_placeholder
from encoder.tuning.inputs import TuningInputs
from pipelines.config.evaluation import BASE, RELEASE, System
from pipelines.config.recipe import Recipe
from pipelines.evaluation.cases import Case, choose_cases
from pipelines.evaluation.result_store import Result, Results
from pipelines.registry.resolve import resolve_release
from pipelines.runtime.logging import configure_worker_logging
from pipelines.runtime.memory import peak_memory_bytes, reset_peak_memory


class Comparison:
    """The systems, the cases and the stored results of a comparison; identical on every rank."""

    def __init__(self, recipe: Recipe, systems: Sequence[System], release: Path, output: Path) -> None:
        """Systems whose ``init`` is ``release`` are initialized from ``release``."""
        self.recipe, self.output = recipe, output
        self.systems = [replace(each, init=_resolve_init(each, release, recipe)) for each in systems]
        self.cases = choose_cases(recipe, max(system.num_images for system in systems))
        self.results = Results(output, recipe, self.systems)

    def missing_cases(self, system: System, cases: Sequence[Case]) -> list[Case]:
        """Return the cases without a result of the system."""
        return [case for case in cases if not self.results.has(system, case)]

    def num_missing(self) -> int:
        """Return the number of missing results."""
        return sum(len(self.missing_cases(system, self.cases)) for system in self.systems)

    def run(self, rank: int, world_size: int) -> None:
        """Compute the missing results of every ``world_size``-th case, starting with case ``rank``."""
        local_cases = self.cases[rank::world_size]
        for system in self.systems:
            if missing := self.missing_cases(system, local_cases):
                self._run_system(system, missing, rank)

    def _run_system(self, system: System, cases: Sequence[Case], rank: int) -> None:
        pipe = open_pipeline(self.recipe, system, rank)
        config = system.tune_config(self.recipe.tune)
        class_images = pipe.generate_class_images(config.num_class_images, seed=self.recipe.seed)
        for case in cases:
            init_result = self.results.init_result(system, case)
            self.results.save(system, case, tune_and_sample(pipe, system, config, case, init_result, class_images))


def _resolve_init(system: System, release: Path, recipe: Recipe) -> str:
    """Return ``base`` or the folder of the release that a system is initialized from; download it if necessary."""
    if system.init == BASE:
        return BASE
    return str(release if system.init == RELEASE else resolve_release(system.init, recipe.runs))


def open_pipeline(recipe: Recipe, system: System, rank: int) -> E4TPipeline:
    """Open the pipeline of a system on the device of the rank."""
    device = f"cuda:{rank % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"
    if system.init == BASE:
        pipe = E4TPipeline.from_base(
            recipe.base,
            recipe.conditioning,
            hidden_width=recipe.pretrain.hidden_width,
            seed=recipe.seed,
            resolution=recipe.data.resolution,
            sample_config=recipe.sample,
            device=device,
        )
    else:
        pipe = E4TPipeline.from_pretrained(system.init, device=device)
        pipe.sample_config = recipe.sample
    return pipe


def tune_and_sample(
    pipe: E4TPipeline,
    system: System,
    config: TuneConfig,
    case: Case,
    init_result: Result | None,
    class_images: Sequence[Image.Image],
) -> Result:
    """Tune on the images of the case, and sample its prompts after each of the system's numbers of tuning steps."""
    if system.method == "none":
        domain_word = pipe.conditioning.config.domain_word
        prompts = [replace_placeholder(prompt, domain_word) for prompt in case.prompts]
        images = pipe(prompts, generator=seeded_generators(case.seed, len(prompts)))
        return Result(images={0: images}, seconds={0: 0.0}, peak_gib=0.0)
    timer = _Timer(max(init_result.seconds.values()) if init_result else 0.0)
    reset_peak_memory()
    concepts = pipe.tune_checkpoints(
        TuningInputs(
            images=case.images[: system.num_images],
            captions=case.captions[: system.num_images],
            init_concept=init_result.concept if init_result else None,
            class_images=class_images,
        ),
        system.steps,
        config=replace(config, seed=case.seed),
        on_step=timer,
    )
    peak_gib, images_by_step = peak_memory_bytes() / 2**30, {}
    for steps, concept in zip(system.steps, concepts, strict=True):
        pipe.load_concept(concept)
        images_by_step[steps] = pipe(case.prompts, generator=seeded_generators(case.seed, len(case.prompts)))
    pipe.unload_concept()
    token_only = None if concepts[-1].weight_deltas else concepts[-1]
    seconds = {steps: round(timer.seconds_at[steps], 3) for steps in system.steps}
    return Result(images=images_by_step, seconds=seconds, peak_gib=round(peak_gib, 3), concept=token_only)


class _Timer:
    """Step callback that records the tuning time in seconds after each step, starting from ``before``."""

    def __init__(self, before: float) -> None:
        self._began = time.monotonic() - before
        self.seconds_at = {0: before}

    def __call__(self, step: int, _: Losses) -> None:
        self.seconds_at[step] = time.monotonic() - self._began


def run_local(comparison: Comparison, on_progress: Callable[[int, int], None] | None = None) -> None:
    """Compute all missing results with one process per GPU of this machine, or per CPU core if it has none.

    ``on_progress`` receives the number of finished results and their total. Starts no process if nothing is missing.
    """
    if not comparison.num_missing():
        return
    total = len(comparison.systems) * len(comparison.cases)
    num_workers = max(1, min(torch.cuda.device_count() or os.cpu_count() or 1, len(comparison.cases)))

    def on_poll() -> None:
        if on_progress:
            on_progress(total - comparison.num_missing(), total)

    run_processes(_run_rank, [(comparison, rank, num_workers) for rank in range(num_workers)], on_poll)


def _run_rank(comparison: Comparison, rank: int, world_size: int) -> None:
    configure_worker_logging()
    comparison.run(rank, world_size)
