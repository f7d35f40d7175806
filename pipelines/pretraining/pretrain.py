"""``e4t pretrain``: train the domain encoder and the weight offsets on a prepared dataset."""

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from data_prep.shards.manifest import Manifest
from pipelines.config.recipe import Recipe
from pipelines.errors import EXIT_OK, EXIT_REQUEUE, RunError
from pipelines.pretraining.checkpoints.manager import CheckpointManager, checkpoint_step
from pipelines.pretraining.run_folder import Run
from pipelines.pretraining.signals import StopSignalHandler
from pipelines.pretraining.watchdog import Watchdog
from pipelines.runtime.launch import set_deepspeed_accelerator
from pipelines.tracking.stage_runs import end_stage_run

log = logging.getLogger("e4t")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of one attempt to run, which are not part of the recipe."""

    max_minutes: float | None = None
    """Save a checkpoint and exit with code 75 after this many minutes; None for no limit."""
    profile: bool = False
    """Write a profiler trace of a few steps to ``profile/`` in the run folder."""
    allow_config_change: bool = False
    """Continue the run although recipe or data differ from those that it was started with."""


def pretrain(recipe: Recipe, options: RunOptions) -> int:
    """Run one rank of a training job, resuming from the latest complete checkpoint if there is one.

    Reads torchrun's environment variables. Returns the exit code: 0 if the run is finished, 75 if it stopped early and
    must be started again.
    """
    config, rank = recipe.pretrain, int(os.environ["RANK"])
    manifest = Manifest.load(recipe.data.output)
    run = Run.open(recipe, rank, allow_config_change=options.allow_config_change)
    checkpoints = CheckpointManager(run.folder / "checkpoints", config.keep_last, config.keep_every)
    if _is_finished(checkpoints, config.max_steps):
        if rank == 0:
            log.info("%s has already reached step %d; nothing to do", run.folder, config.max_steps)
            end_stage_run(recipe, "pretrain", "FINISHED")
        return EXIT_OK

    signals = ("SIGTERM", "SIGINT", config.stop_signal)
    stacks = run.folder / "logs" / f"rank_{rank}.stacks"
    with (
        StopSignalHandler(signals, max_minutes=options.max_minutes) as stop_handler,
        Watchdog(stacks, f"rank {rank}") as watchdog,
    ):
        watchdog.reset(config.init_timeout_seconds)
        return _train(recipe, options, run, manifest, checkpoints, stop_handler, watchdog)


def _train(
    recipe: Recipe,
    options: RunOptions,
    run: Run,
    manifest: Manifest,
    checkpoints: CheckpointManager,
    stop_handler: StopSignalHandler,
    watchdog: Watchdog,
) -> int:
    # Importing torch, diffusers and DeepSpeed takes seconds, and a finished run does not need them.
    set_deepspeed_accelerator()
    from pipelines.pretraining.builder import FrozenModels, build_trainer, start_tracker
    from pipelines.pretraining.deepspeed_engine import init_distributed

    frozen = FrozenModels.load(recipe)
    process_group = init_distributed(recipe)
    run.log_to_file()
    tracker = start_tracker(recipe, manifest, frozen) if process_group.rank == 0 else None
    status = "FAILED"
    try:
        with _peer_failures_as_run_errors(run.rank), ExitStack() as resources:
            trainer = build_trainer(
                recipe, options, run, frozen, process_group, checkpoints, tracker, stop_handler, watchdog, resources
            )
            stop_reason = trainer.train()
        status = "KILLED" if stop_reason else "FINISHED"
    finally:
        if tracker:
            tracker.close(status)
    return EXIT_REQUEUE if stop_reason else EXIT_OK


def _is_finished(checkpoints: CheckpointManager, max_steps: int) -> bool:
    """Whether there is an intact checkpoint of ``max_steps`` or more; files are verified only if one claims to be."""
    complete = checkpoints.list_complete()
    if not complete or checkpoint_step(complete[-1]) < max_steps:
        return False
    latest = checkpoints.latest()
    return latest is not None and checkpoint_step(latest) >= max_steps


@contextmanager
def _peer_failures_as_run_errors(rank: int) -> Iterator[None]:
    """Turn the failure of a collective, which happens when another rank has ended, into a RunError of one line."""
    try:
        yield
    except RuntimeError as error:
        if not _is_peer_failure(error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise RunError(
            f"rank {rank} lost a peer ({reason}); rerun the command to resume from the latest complete checkpoint"
        ) from error


def _is_peer_failure(error: RuntimeError) -> bool:
    """Whether a collective failed, as it does when another rank has ended or its host cannot be reached."""
    import torch

    message = str(error)
    return isinstance(error, torch.distributed.DistError) or "gloo" in message or "NCCL" in message
