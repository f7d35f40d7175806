"""Making results: a rank takes its share of the concepts, one system after the other."""

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from threading import Thread

import torch
from PIL import Image

from encoder.config import PLACEHOLDER
from encoder.model.losses import Losses
from encoder.pipeline import E4TPipeline
from pipelines.config.evaluation import BARE, RELEASE, System
from pipelines.config.recipe import Recipe
from pipelines.evaluation.cases import Case, choose_cases
from pipelines.evaluation.result_store import Result, Results
from pipelines.registry.resolve import release_at
from pipelines.runtime.logging import quiet_worker
from pipelines.runtime.memory import forget_peak, peak_bytes

LOOK_EVERY_SECONDS = 0.5


class Comparison:
    """Systems, concepts and the folder of results; the same on every rank."""

    def __init__(self, recipe: Recipe, systems: Sequence[System], release: Path, output: Path) -> None:
        """``release`` is where systems that start from ``release`` do."""
        self.recipe, self.output = recipe, output
        self.systems = [replace(each, start=_start(each, release, recipe)) for each in systems]
        self.cases = choose_cases(recipe, max(system.pictures for system in systems))
        self.results = Results(output, recipe, self.systems)

    def missing(self, system: System, cases: Sequence[Case]) -> list[Case]:
        """Those that the system has made nothing of yet."""
        return [case for case in cases if not self.results.has(system, case)]

    def left(self) -> int:
        """Results that are not there yet."""
        return sum(len(self.missing(system, self.cases)) for system in self.systems)

    def work(self, rank: int, world: int) -> None:
        """Make what is missing of every ``world``-th concept from ``rank`` on."""
        mine = self.cases[rank::world]
        for system in self.systems:
            if missing := self.missing(system, mine):
                self._make(system, missing, rank)

    def _make(self, system: System, cases: Sequence[Case], rank: int) -> None:
        pipe = open_pipeline(self.recipe, system, rank)
        prior = pipe.generate_class_images(pipe.tune_config.num_class_images, seed=self.recipe.seed)
        for case in cases:
            before = self.results.before(system, case)
            self.results.save(system, case, personalise(pipe, system, case, before, prior))


def _start(system: System, release: Path, recipe: Recipe) -> str:
    """Where a system starts: the bare base, or a release's folder, fetched if need be."""
    if system.start == BARE:
        return BARE
    return str(release if system.start == RELEASE else release_at(system.start, recipe.runs))


def open_pipeline(recipe: Recipe, system: System, rank: int) -> E4TPipeline:
    """What a system tunes, on the rank's device."""
    device = f"cuda:{rank % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"
    if system.start == BARE:
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
        pipe = E4TPipeline.from_pretrained(system.start, device=device)
        pipe.sample_config = recipe.sample
    pipe.tune_config = system.tuning(recipe.tune)
    return pipe


def personalise(
    pipe: E4TPipeline, system: System, case: Case, before: Result | None, prior: Sequence[Image.Image]
) -> Result:
    """Tune on the case's pictures, and paint its prompts after each of the system's numbers of steps."""
    if system.method == "none":
        word = pipe.conditioning.config.domain_word
        painted = pipe([prompt.replace(PLACEHOLDER, word) for prompt in case.prompts], seed=case.seed)
        return Result(pictures={0: painted}, seconds={0: 0.0}, peak_gib=0.0)
    timer = _Timer(max(before.seconds.values()) if before else 0.0)
    forget_peak()
    concepts = pipe.tune_checkpoints(
        list(case.pictures[: system.pictures]),
        system.steps,
        caption=list(case.captions[: system.pictures]),
        init_concept=before.concept if before else None,
        class_images=prior,
        on_step=timer,
        seed=case.seed,
    )
    peak, pictures = peak_bytes() / 2**30, {}
    for steps, concept in zip(system.steps, concepts, strict=True):
        pipe.load_concept(concept)
        pictures[steps] = pipe(case.prompts, seed=case.seed)
    pipe.unload_concept()
    word_alone = None if concepts[-1].weight_deltas else concepts[-1]
    seconds = {steps: round(timer.at[steps], 3) for steps in system.steps}
    return Result(pictures=pictures, seconds=seconds, peak_gib=round(peak, 3), concept=word_alone)


class _Timer:
    """Seconds at the end of each step, what was spent before included; at 0 steps, those of nothing but that."""

    def __init__(self, before: float) -> None:
        self._began = time.monotonic() - before
        self.at = {0: before}

    def __call__(self, step: int, _: Losses) -> None:
        self.at[step] = time.monotonic() - self._began


def work_here(comparison: Comparison, on_done: Callable[[int, int], None] | None = None) -> None:
    """Make everything that is missing with a process for each device of this machine, or each core."""
    total = len(comparison.systems) * len(comparison.cases)
    world = max(1, min(torch.cuda.device_count() or os.cpu_count() or 1, len(comparison.cases)))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(world, context, begin_worker) as pool:
        futures = [pool.submit(comparison.work, rank, world) for rank in range(world)]
        running = set(futures)
        while running:
            _, running = wait(running, LOOK_EVERY_SECONDS)
            if on_done:
                on_done(total - comparison.left(), total)
        for future in futures:
            future.result()


def begin_worker() -> None:
    """A process of the pool says our own lines only, and ends with the one that started it, however that ended."""
    Thread(target=_end_with_parent, daemon=True).start()
    quiet_worker()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)
