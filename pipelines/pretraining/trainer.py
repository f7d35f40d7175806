"""``e4t pretrain``: learn the domain encoder and the weight offsets on a prepared set."""

import gc
import logging
import math
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from data_prep.config_diff import differences
from data_prep.shards.manifest import Manifest
from data_prep.stream.stream import Batch, ShardStream, to_float
from e4t import ConfigError
from encoder.backbone.backbone import Backbone
from encoder.model.conditioning import Conditioning
from encoder.model.features import EncodedImages, encode_images
from pipelines.config.pretraining import PretrainConfig
from pipelines.config.recipe import Recipe
from pipelines.errors import EXIT_OK, EXIT_REQUEUE, RunError
from pipelines.pretraining.checkpoints.format import Progress, load_metadata, load_progress, load_state, save_state
from pipelines.pretraining.checkpoints.gather import gather_state, restore_state
from pipelines.pretraining.checkpoints.manager import CheckpointManager
from pipelines.pretraining.checkpoints.state import TrainingState
from pipelines.pretraining.deepspeed_engine import build_engine, init_distributed
from pipelines.pretraining.feature_cache import open_feature_cache, to_encoded_images
from pipelines.pretraining.metrics import MetricsAccumulator, SystemMetrics, aggregate, format_duration
from pipelines.pretraining.model import DomainModel, sample_noise
from pipelines.pretraining.profiler import profile_steps
from pipelines.pretraining.run_folder import Run
from pipelines.pretraining.signals import StopSignalHandler
from pipelines.pretraining.step_monitor import StepMonitor, StepRecord, StepResult
from pipelines.pretraining.validation import Validation
from pipelines.pretraining.watchdog import Watchdog
from pipelines.tracking.environment import environment
from pipelines.tracking.stage_runs import open_tracker
from pipelines.tracking.tracker import Tracker

log = logging.getLogger("e4t")
GC_INTERVAL = 100
"""Steps between Python's garbage collections: on every rank at the same step, where it costs all of them once."""
HEARTBEAT_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What one start of a run is told beside the recipe."""

    max_minutes: float | None = None
    """Save and end with exit code 75 after so long."""
    profile: bool = False
    """Write a trace of a few steps to ``profile/`` in the run's folder."""
    allow_config_change: bool = False
    """Go on although recipe or data are not those that the run began with."""


def pretrain(recipe: Recipe, options: RunOptions) -> int:
    """Be one rank of a run: train to the recipe's steps, from the newest complete checkpoint if there is one.

    Returns the exit code: done, or to be started again.
    """
    manifest = Manifest.load(recipe.data.output)
    run = Run.open(recipe, int(os.environ["RANK"]), allow_config_change=options.allow_config_change)
    signals = ("SIGTERM", "SIGINT", recipe.pretrain.stop_signal)
    stacks = run.folder / "logs" / f"rank_{run.rank}.stacks"
    with (
        StopSignalHandler(signals, max_minutes=options.max_minutes) as stop_handler,
        Watchdog(stacks, f"rank {run.rank}") as watchdog,
    ):
        watchdog.reset(recipe.pretrain.init_timeout_seconds)
        trainer = Trainer(recipe, run, manifest, stop_handler, watchdog, options)
        status = "FAILED"
        try:
            reason = trainer.train()
            status = "KILLED" if reason else "FINISHED"
        except RuntimeError as error:
            if not _is_peer_failure(error):
                raise
            raise RunError(
                f"rank {run.rank} has lost another ({' '.join(str(error).split())[:200]}); the same command goes on "
                "from the newest complete checkpoint"
            ) from error
        finally:
            trainer.close(status)
    return EXIT_REQUEUE if reason else EXIT_OK


class Trainer:
    """One rank of a pre-training run."""

    def __init__(
        self,
        recipe: Recipe,
        run: Run,
        manifest: Manifest,
        stop_handler: StopSignalHandler,
        watchdog: Watchdog,
        options: RunOptions,
    ) -> None:
        self.recipe, self.config, self.run, self.manifest = recipe, recipe.pretrain, run, manifest
        self.stop_handler, self.watchdog, self.options = stop_handler, watchdog, options
        self.backbone = Backbone.load(recipe.base)
        self.conditioning = Conditioning.from_backbone(self.backbone, recipe.conditioning)
        self.process_group = init_distributed(recipe)
        run.log_to_file()
        self.backbone.to(self.process_group.accelerator.device)
        if self.config.gradient_checkpointing:
            self.backbone.unet.enable_gradient_checkpointing()
        if self.config.compile:
            torch._dynamo.config.recompile_limit = 64  # a block is compiled for each width, with gradient and without
            self.backbone.unet.compile_repeated_blocks()
        model = DomainModel.build(self.config, self.backbone, self.conditioning)
        self.initial_state = TrainingState.from_model(model)
        self.meta_offsets = model.offsets.meta_copy()
        self.engine, self.optimizer = build_engine(model, self.config, self.process_group)
        self.validation = Validation(recipe, self.backbone, self.conditioning)
        self.checkpoints = CheckpointManager(run.folder / "checkpoints", self.config.keep_last, self.config.keep_every)
        self.step_monitor = StepMonitor(
            self.config.max_consecutive_skips, self.config.loss_spike_factor, self._on_step_result
        )
        self.metrics, self.teraflops_per_step = MetricsAccumulator(), 0.0
        self.attempt_id = self.process_group.broadcast_from_rank_0(f"{int(time.time())}-{os.getpid()}")
        self.progress, self.saved_step, self.last_heartbeat = Progress(), -1, 0.0
        self.data_fingerprint: dict[str, Any] = {}
        self.base_fingerprint = self.backbone.fingerprint() if self.process_group.rank == 0 else {}
        self.system_metrics = SystemMetrics() if self.process_group.accelerator.is_local_main_process else None
        self.tracker = self._start_tracker() if self.process_group.rank == 0 else None

    def _start_tracker(self) -> Tracker:
        """Begin, or take up, the tracker's run; the first line says what trains."""
        self.run.log_metrics(
            engine=type(self.engine).__name__,
            optimizer=type(self.engine.optimizer).__name__,
            world_size=self.engine.world_size,
            zero_stage=self.engine.zero_optimization_stage(),
            bf16=self.engine.bfloat16_enabled(),
            fp16=self.engine.fp16_enabled(),
            offload=self.engine.zero_cpu_offload(),
            passes=self.engine.gradient_accumulation_steps(),
        )
        tracker = open_tracker(self.recipe, "pretrain")
        tracker.log_dataset(self.manifest.domain, self.manifest.digest, self.recipe.data.output, "training")
        tracker.set_tags({f"e4t.base.{key}": value for key, value in self.base_fingerprint.items() if value})
        return tracker

    def train(self) -> str:
        """The loop; returns why it stopped before the end, or nothing."""
        state = self._load_latest_checkpoint()
        if self.progress.step >= self.config.max_steps:
            return ""
        with ExitStack() as stack:
            stream = stack.enter_context(self._open_stream())
            self._offload_encoders()
            self._check_data_fingerprint(stream.fingerprint())
            trace_path = self.run.folder / "profile" / f"rank_{self.run.rank}.json.gz"
            profiler = stack.enter_context(profile_steps(trace_path)) if self.options.profile else None
            first_batch = next(stream)
            self._warmup_step(first_batch, state)
            gc.disable()
            stack.callback(gc.enable)
            for batch in self._batches(first_batch, stream):
                self._run_step(batch)
                if profiler:
                    profiler.step()
                if reason := self.stop_handler.should_stop(self.process_group.all_reduce_max):
                    break
        self._finish(reason)
        return reason if self.progress.step < self.config.max_steps else ""

    def _batches(self, first: Batch, stream: ShardStream) -> Iterator[Batch]:
        """As many as there are steps to go."""
        batches = chain([first], stream)
        while self.progress.step < self.config.max_steps:
            with self.metrics.data_wait():
                batch = next(batches)
            yield batch

    def _run_step(self, batch: Batch) -> None:
        """A step, and what is due after it."""
        losses = self._train_step(batch)
        self.metrics.add(losses)
        self.progress.step += 1
        self.progress.samples_seen = batch.samples_seen
        self.step_monitor.record(
            StepRecord(self.progress.step, batch.indices[0], batch.keys), losses, self.optimizer.skipped
        )
        self.watchdog.reset(self.config.step_timeout_seconds)
        if self._due(self.config.log_every):
            self._log_metrics()
        should_save, should_validate = self._due(self.config.checkpoint_every), self._due(self.config.eval_every)
        state = self._gather_state() if should_save or should_validate else None
        if should_save:
            self._save(state)
        if should_validate:
            self._validate(state)
        if self.progress.step % GC_INTERVAL == 0:
            gc.collect()
        self._heartbeat()
        self.watchdog.reset(self.config.step_timeout_seconds)

    def _due(self, every: int) -> bool:
        return self.progress.step % every == 0 or self.progress.step == self.config.max_steps

    def _load_latest_checkpoint(self) -> TrainingState:
        """Of the newest whole checkpoint, rank 0's answer being everybody's; else of the start."""
        latest_path = str(self.checkpoints.latest() or "") if self.process_group.rank == 0 else ""
        checkpoint_path = self.process_group.broadcast_from_rank_0(latest_path)
        if not checkpoint_path:
            return self.initial_state
        folder = Path(checkpoint_path)
        metadata = load_metadata(folder)
        self.data_fingerprint = metadata["data"]
        self.progress = load_progress(folder)
        self.saved_step = self.progress.step
        if self.process_group.rank == 0:
            log.info("resuming from %s at step %d", folder, self.progress.step)
        return load_state(folder)

    def _open_stream(self) -> ShardStream:
        return ShardStream(
            self.recipe.data.output,
            "train",
            global_batch_size=self.config.global_batch_size,
            rank=self.process_group.rank,
            world_size=self.process_group.world_size,
            seed=self.recipe.seed,
            samples_seen=self.progress.samples_seen,
            config=self.recipe.stream,
            features=open_feature_cache(self.recipe, self.backbone, "train") if self.config.use_feature_cache else None,
        )

    def _check_data_fingerprint(self, fingerprint: dict[str, Any]) -> None:
        """Refuse data that are not those of the checkpoint, unless told to go on."""
        if changed := differences(self.data_fingerprint or fingerprint, fingerprint):
            difference = "; ".join(f"{name}: {then} there, {now} now" for name, then, now in changed)
            if not self.options.allow_config_change:
                raise ConfigError(
                    f"the run in {self.run.folder} was trained on other data ({difference}); give another name to "
                    "start anew, or go on all the same with --accept-changes true"
                )
            log.warning("going on with other data: %s", difference)
        self.data_fingerprint = fingerprint

    def _warmup_step(self, batch: Batch, state: TrainingState) -> None:
        """One step on real pictures, so that memory runs out now or never; then the state is what it shall be."""
        try:
            self.teraflops_per_step = self._train_step_counting_flops(batch)
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            micro_batch_size, _ = self.config.micro_batch_split(self.process_group.world_size)
            raise ConfigError(
                f"out of memory with {micro_batch_size} pictures of {self.recipe.data.resolution} pixels at once on a device; "
                f"lower pretrain.micro_batch_size (the batch stays {self.config.global_batch_size}), or set "
                "pretrain.gradient_checkpointing, offload_optimizer, or base.dtype: bfloat16"
            ) from error
        restore_state(self.engine, self.optimizer, state)
        self.metrics = MetricsAccumulator()

    def _train_step_counting_flops(self, batch: Batch) -> float:
        """A step, and how many teraflops it takes; 0 for compiled code, which nobody can look into."""
        if self.config.compile:
            self._train_step(batch)
            return 0.0
        with FlopCounterMode(display=False) as counter:
            self._train_step(batch)
        return float(counter.get_total_flops()) / 1e12

    def _train_step(self, batch: Batch) -> Tensor:
        """One optimizer step over this rank's slice; returns its mean losses, (3,), on the device."""
        factor = lr_factor(self.config, self.progress.step)
        for group, rate in zip(self.engine.optimizer.param_groups, self.config.learning_rates, strict=False):
            group["lr"] = rate * factor  # without offsets there is one group
        noise = sample_noise(
            self.recipe, self.backbone, [self.recipe.seed * 1_000_003 + index for index in batch.indices]
        )
        prompts = self.conditioning.sample_prompts(batch.captions, noise.prompt_choice)
        self.optimizer.skipped = torch.ones(())  # unless it is asked to step
        micro_batch_size, accumulation_steps = self.config.micro_batch_split(self.process_group.world_size)
        totals = []
        for start in range(0, micro_batch_size * accumulation_steps, micro_batch_size):
            rows = slice(start, start + micro_batch_size)
            losses = self.engine(
                self._encode_batch(batch, rows), prompts[rows], noise[rows], self.config.regularization_weight
            )
            self.engine.backward(losses.total)
            self.engine.step()
            totals.append(torch.stack([losses.total, losses.denoising, losses.regularization]).detach().float())
        return torch.stack(totals).mean(dim=0)

    def _encode_batch(self, batch: Batch, rows: slice) -> EncodedImages:
        if self.config.use_feature_cache:
            return to_encoded_images({name: tensor[rows] for name, tensor in batch.tensors.items()}, self.engine.device)
        return encode_images(self.backbone, to_float(batch.tensors["pixels"][rows].to(self.engine.device)))

    def _on_step_result(self, result: StepResult) -> None:
        """Write this rank's record of a step, and say what was odd about it."""
        step = result.step
        self.run.log_step(
            step=step.number, start=step.start_index, count=len(step.keys), sitting=self.attempt_id,
            loss=result.losses[0], skipped=result.skipped,
        )  # fmt: skip
        if result.skipped or result.is_spike:
            problem = "a loss or gradient is not finite; skipped" if result.skipped else "the loss jumped"
            log.warning("step %d: %s (loss %.4g, pictures %s)", step.number, problem, result.losses[0], list(step.keys))
            self.run.log_metrics(step=step.number, skipped=int(result.skipped), loss_jumped=int(result.is_spike))

    def _log_metrics(self) -> None:
        """One line everywhere: metrics.jsonl, the terminal, MLflow. Every rank must call."""
        gathered = self.process_group.all_gather_object(
            (self.metrics.read(), self.system_metrics.read() if self.system_metrics else {})
        )
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
        metrics = aggregate(
            [ranks for ranks, _ in gathered], self.config.global_batch_size, self.teraflops_per_step, device
        )
        self.progress.seconds += metrics.pop("seconds")
        norm = self.engine.get_global_grad_norm()
        metrics |= {} if norm is None else {"grad_norm": float(norm)}
        metrics |= {
            "learning_rate": self.engine.optimizer.param_groups[0]["lr"],
            "skipped_steps": self._total_skipped(),
        }
        if not self.tracker:
            return
        step, steps_left = self.progress.step, self.config.max_steps - self.progress.step
        eta = format_duration(steps_left * self.config.global_batch_size / metrics["images_per_second"])
        text = "step %d/%d  loss %.4f  %.1f images/s  ETA %s"
        log.info(text, step, self.config.max_steps, metrics["loss"], metrics["images_per_second"], eta)
        self.run.log_metrics(step=step, **metrics)
        self.tracker.log_metrics(step, metrics | {key: value for _, node in gathered for key, value in node.items()})

    def _total_skipped(self) -> int:
        return self.progress.skipped + self.step_monitor.num_skipped

    def _heartbeat(self) -> None:
        if time.monotonic() - self.last_heartbeat >= HEARTBEAT_SECONDS:
            self.run.heartbeat(self.progress.step)
            self.last_heartbeat = time.monotonic()

    def _gather_state(self) -> TrainingState | None:
        """The whole state, on rank 0. Every rank must call."""
        return gather_state(self.engine, self.optimizer, keep=self.process_group.rank == 0)

    def _save(self, state: TrainingState | None) -> None:
        """Begin to write a checkpoint; rank 0's thread ends it. Every rank must call."""
        self.step_monitor.flush()
        if state:
            progress = Progress(**vars(self.progress) | {"skipped": self._total_skipped()})
            metadata = {
                "data": self.data_fingerprint,
                "base": self.base_fingerprint,
                "seed": self.recipe.seed,  # every draw follows from it and a sample's position: no other RNG is used
                "world_size": self.process_group.world_size,
                "zero_stage": self.config.zero_stage,
                "environment": environment(),
            }
            self.checkpoints.save(
                self.progress.step, lambda folder: save_state(folder, state, progress, self.meta_offsets, metadata)
            )
        self.saved_step = self.progress.step

    def _validate(self, state: TrainingState | None) -> None:
        """Validation loss and a grid of held-out pictures. Every rank must call."""
        self.watchdog.reset(self.config.init_timeout_seconds)
        if self.tracker and state:
            self.backbone.move_encoders(self.backbone.device)
            loss, grid = self.validation.evaluate(state.ema_or_weights)
            self._offload_encoders()
            path = self.run.folder / "samples" / f"step_{self.progress.step:08d}.png"
            grid.save(path)
            log.info("step %d  validation loss %.4f  samples %s", self.progress.step, loss, path)
            self.run.log_metrics(step=self.progress.step, validation_loss=loss)
            self.tracker.log_metrics(self.progress.step, {"validation_loss": loss})
            self.tracker.log_artifact(path, "samples")
        self.process_group.barrier()

    def _offload_encoders(self) -> None:
        """What a cache has looked with does not stay on the device."""
        if self.config.use_feature_cache:
            self.backbone.move_encoders("cpu")

    def _finish(self, reason: str) -> None:
        """Save what is not saved, and wait until it is whole."""
        self.watchdog.reset(self.config.init_timeout_seconds)
        if self.saved_step != self.progress.step:
            self._save(self._gather_state())
        self.step_monitor.flush()
        self.checkpoints.wait()
        if self.tracker:
            self.tracker.set_tags(
                {"e4t.checkpoints": "\n".join(str(path) for path in self.checkpoints.list_complete())}
            )
        self.run.heartbeat(self.progress.step)
        self.process_group.barrier()
        if reason and self.process_group.rank == 0:
            log.info(
                "stopped at step %d (%s); everything is saved, start it again to go on", self.progress.step, reason
            )

    def close(self, status: str) -> None:
        """Tell the tracker how it ended."""
        if self.tracker:
            self.tracker.close(status)


def lr_factor(config: PretrainConfig, step: int) -> float:
    """Factor on the learning rates at a step, from 0."""
    warmup = min(1.0, (step + 1) / (config.warmup_steps + 1))
    return (
        warmup * (0.5 + 0.5 * math.cos(math.pi * step / config.max_steps)) if config.lr_schedule == "cosine" else warmup
    )


def _is_peer_failure(error: RuntimeError) -> bool:
    """Whether a collective failed, as it does when another rank has ended or its host cannot be reached."""
    message = str(error)
    return isinstance(error, torch.distributed.DistError) or "gloo" in message or "NCCL" in message


def _is_out_of_memory(error: Exception) -> bool:
    message = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in message or "can't allocate memory" in message
