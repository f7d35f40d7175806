"""Build the trainer of one rank from a recipe, and restore the training state of the latest checkpoint."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from deepspeed import DeepSpeedEngine
from torch.profiler import ProfilerActivity, schedule, supported_activities
from torch.profiler import profile as TorchProfiler

from data_prep.config_dict import differences
from data_prep.shards.manifest import Manifest
from data_prep.stream.stream import ShardStream
from e4t_errors import ConfigError
from encoder.backbone.backbone import Backbone
from encoder.model.conditioning import Conditioning
from pipelines.config.recipe import Recipe
from pipelines.pretraining.checkpoints.checkpointer import Checkpointer, load_latest_checkpoint
from pipelines.pretraining.checkpoints.format import Progress
from pipelines.pretraining.checkpoints.gather import restore_state
from pipelines.pretraining.checkpoints.manager import CheckpointManager
from pipelines.pretraining.checkpoints.state import TrainingState
from pipelines.pretraining.deepspeed_engine import build_engine
from pipelines.pretraining.feature_cache import open_feature_cache
from pipelines.pretraining.metrics import MetricsLogger, log_step_result
from pipelines.pretraining.model import DomainModel
from pipelines.pretraining.pretrain import RunOptions
from pipelines.pretraining.run_folder import Run
from pipelines.pretraining.signals import StopSignalHandler
from pipelines.pretraining.step_monitor import StepMonitor
from pipelines.pretraining.train_step import TrainStep
from pipelines.pretraining.trainer import Trainer
from pipelines.pretraining.validation import Validation
from pipelines.pretraining.watchdog import Watchdog
from pipelines.runtime.process_group import ProcessGroup
from pipelines.tracking.environment import environment
from pipelines.tracking.stage_runs import open_tracker
from pipelines.tracking.tracker import Tracker

log = logging.getLogger("e4t")
PROFILE_WAIT, PROFILE_WARMUP, PROFILE_STEPS = 1, 1, 3
"""Steps that are left out, then steps that warm the profiler up, then steps that are recorded."""


@dataclass(frozen=True)
class FrozenModels:
    """The models that training uses and does not change."""

    backbone: Backbone
    conditioning: Conditioning

    @classmethod
    def load(cls, recipe: Recipe) -> "FrozenModels":
        """Load the base model of the recipe on the CPU."""
        backbone = Backbone.load(recipe.base)
        return cls(backbone, Conditioning.from_backbone(backbone, recipe.conditioning))

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """Model id, revision and digest of the weights of the base model."""
        return self.backbone.fingerprint()

    def prepare_for_training(self, recipe: Recipe, device: torch.device) -> None:
        """Move the backbone to the device, with gradient checkpointing and compilation as the recipe says."""
        self.backbone.to(device)
        if recipe.pretrain.gradient_checkpointing:
            self.backbone.unet.enable_gradient_checkpointing()
        if recipe.pretrain.compile:
            # Blocks are compiled once for each width, with and without gradients.
            torch._dynamo.config.recompile_limit = 64
            self.backbone.unet.compile_repeated_blocks()


def start_tracker(recipe: Recipe, manifest: Manifest, frozen: FrozenModels) -> Tracker:
    """Create the MLflow run of the stage, or continue that of an earlier attempt, and log dataset and base model."""
    tracker = open_tracker(recipe, "pretrain")
    tracker.log_dataset(manifest.domain, manifest.digest, recipe.data.output, "training")
    tracker.set_tags({f"e4t.base.{key}": value for key, value in frozen.fingerprint.items() if value})
    return tracker


def build_trainer(
    recipe: Recipe,
    options: RunOptions,
    run: Run,
    frozen: FrozenModels,
    process_group: ProcessGroup,
    checkpoints: CheckpointManager,
    tracker: Tracker | None,
    stop_handler: StopSignalHandler,
    watchdog: Watchdog,
    resources: ExitStack,
) -> Trainer:
    """Build the parts of a trainer, run a warm-up step and restore the training state. Every rank must call this.

    The data stream and the profiler are closed with ``resources``. Raises ConfigError if the data changed since the
    checkpoint (unless ``options.allow_config_change``) or a micro-batch does not fit into memory.
    """
    config = recipe.pretrain
    frozen.prepare_for_training(recipe, process_group.accelerator.device)
    model = DomainModel.build(config, frozen.backbone, frozen.conditioning)
    state, progress, data_fingerprint = load_latest_checkpoint(checkpoints, process_group) or (
        TrainingState.from_model(model), Progress(), {},
    )  # fmt: skip
    meta_offsets = model.offsets.meta_copy()
    engine, optimizer = build_engine(model, config, process_group)
    _log_engine(run, engine)
    stream = resources.enter_context(_open_stream(recipe, frozen.backbone, process_group, progress))
    if config.use_feature_cache:
        frozen.backbone.move_encoders("cpu")  # only validation needs them
    _check_data_fingerprint(run, data_fingerprint, stream.fingerprint(), options)
    trace_path = run.folder / "profile" / f"rank_{run.rank}.json.gz"
    profiler = resources.enter_context(_profile_steps(trace_path)) if options.profile else None
    run_step = TrainStep(recipe, frozen.backbone, frozen.conditioning, engine, optimizer)
    first_batch = next(stream)
    teraflops_per_step = run_step.warm_up(first_batch)
    restore_state(engine, optimizer, state)
    attempt_id = process_group.broadcast_from_rank_0(f"{int(time.time())}-{os.getpid()}")
    metadata = _checkpoint_metadata(recipe, frozen, process_group, stream)
    return Trainer(
        config=config,
        run=run,
        process_group=process_group,
        batches=chain([first_batch], stream),
        run_step=run_step,
        progress=progress,
        checkpointer=Checkpointer(checkpoints, process_group, engine, optimizer, meta_offsets, metadata),
        validation=Validation(recipe, frozen.backbone, frozen.conditioning),
        metrics=MetricsLogger(config, process_group, run, tracker, teraflops_per_step=teraflops_per_step),
        step_monitor=StepMonitor(
            config.max_consecutive_skips,
            config.loss_spike_factor,
            partial(log_step_result, run, attempt_id),
            num_skipped=progress.skipped,
        ),
        stop_handler=stop_handler,
        watchdog=watchdog,
        profiler=profiler,
    )


def _open_stream(recipe: Recipe, backbone: Backbone, process_group: ProcessGroup, progress: Progress) -> ShardStream:
    return ShardStream(
        recipe.data.output,
        "train",
        global_batch_size=recipe.pretrain.global_batch_size,
        rank=process_group.rank,
        world_size=process_group.world_size,
        seed=recipe.seed,
        samples_seen=progress.samples_seen,
        config=recipe.stream,
        features=open_feature_cache(recipe, backbone, "train") if recipe.pretrain.use_feature_cache else None,
    )


def _check_data_fingerprint(
    run: Run, data_fingerprint: dict[str, Any], fingerprint: dict[str, Any], options: RunOptions
) -> None:
    """Raise ConfigError, with the difference, if the data are not those of the checkpoint; warn if that is allowed."""
    changed = differences(data_fingerprint or fingerprint, fingerprint)
    if not changed:
        return
    difference = "; ".join(f"{name}: {then} in the checkpoint, {now} now" for name, then, now in changed)
    if not options.allow_config_change:
        raise ConfigError(
            f"the run in {run.folder} was trained on other data ({difference}); give the new run another name, or "
            "continue this one with --allow-config-change"
        )
    log.warning("continuing with other data: %s", difference)


def _log_engine(run: Run, engine: DeepSpeedEngine) -> None:
    """Write what DeepSpeed made of the recipe to metrics.jsonl."""
    run.log_metrics(
        engine=type(engine).__name__,
        optimizer=type(engine.optimizer).__name__,
        world_size=engine.world_size,
        zero_stage=engine.zero_optimization_stage(),
        bf16=engine.bfloat16_enabled(),
        fp16=engine.fp16_enabled(),
        offload=engine.zero_cpu_offload(),
        gradient_accumulation_steps=engine.gradient_accumulation_steps(),
    )


def _checkpoint_metadata(
    recipe: Recipe, frozen: FrozenModels, process_group: ProcessGroup, stream: ShardStream
) -> dict[str, Any]:
    """Return what ``state.json`` says beside the progress. Only rank 0 writes it, and digests the base model.

    The seed stands for the whole random state: every random number of training follows from it and the position of a
    sample in the data stream.
    """
    return {
        "data": stream.fingerprint(),
        "base": frozen.fingerprint if process_group.rank == 0 else {},
        "seed": recipe.seed,
        "world_size": process_group.world_size,
        "zero_stage": recipe.pretrain.zero_stage,
        "environment": environment(),
    }


@contextmanager
def _profile_steps(path: Path) -> Iterator[TorchProfiler]:
    """Write a Chrome trace of a few steps to ``path``; call ``step()`` on the yielded profiler after each step.

    Perfetto and chrome://tracing open the file.
    """

    def write_trace(finished: TorchProfiler) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        finished.export_chrome_trace(str(path))

    activities = {ProfilerActivity.CPU, ProfilerActivity.CUDA} & supported_activities()
    profiler_schedule = schedule(wait=PROFILE_WAIT, warmup=PROFILE_WARMUP, active=PROFILE_STEPS, repeat=1)
    with TorchProfiler(activities=list(activities), schedule=profiler_schedule, on_trace_ready=write_trace) as profiler:
        yield profiler
