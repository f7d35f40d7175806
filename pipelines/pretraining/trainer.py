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
from encoder.backbone.backbone import Backbone
from encoder.errors import ConfigError
from encoder.model.conditioning import Conditioning
from encoder.model.features import EncodedImages, encode_images
from pipelines.config.pretraining import PretrainConfig
from pipelines.config.recipe import Recipe
from pipelines.errors import DONE, REQUEUE, RunError
from pipelines.pretraining.checkpoints.format import Progress, read_facts, read_progress, read_state, write_state
from pipelines.pretraining.checkpoints.gather import collect, restore
from pipelines.pretraining.checkpoints.manager import Checkpoints
from pipelines.pretraining.checkpoints.state import TrainingState
from pipelines.pretraining.deepspeed_engine import build_engine, join_cluster
from pipelines.pretraining.feature_cache import encoded, open_cache
from pipelines.pretraining.metrics import Meter, NodeMeter, clock, summarise
from pipelines.pretraining.model import DomainModel, draws
from pipelines.pretraining.profiler import traced
from pipelines.pretraining.run_folder import Run
from pipelines.pretraining.signals import Stopper
from pipelines.pretraining.step_monitor import Guard, Judged, Step
from pipelines.pretraining.validation import Validation
from pipelines.pretraining.watchdog import Watchdog
from pipelines.tracking.environment import environment
from pipelines.tracking.stage_runs import open_tracker
from pipelines.tracking.tracker import Tracker

log = logging.getLogger("e4t")
COLLECT_EVERY = 100
"""Steps between Python's garbage collections: on every rank at the same step, where it costs all of them once."""
BEAT_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Sitting:
    """What one start of a run is told beside the recipe."""

    max_minutes: float | None = None
    """Save and end with exit code 75 after so long."""
    profile: bool = False
    """Write a trace of a few steps to ``profile/`` in the run's folder."""
    accept_changes: bool = False
    """Go on although recipe or data are not those that the run began with."""


def pretrain(recipe: Recipe, sitting: Sitting) -> int:
    """Be one rank of a run: train to the recipe's steps, from the newest complete checkpoint if there is one.

    Returns the exit code: done, or to be started again.
    """
    manifest = Manifest.load(recipe.data.output)
    run = Run.open(recipe, int(os.environ["RANK"]), accept_changes=sitting.accept_changes)
    signals = ("SIGTERM", "SIGINT", recipe.pretrain.stop_signal)
    stacks = run.folder / "logs" / f"rank_{run.rank}.stacks"
    with (
        Stopper(signals, minutes=sitting.max_minutes) as stopper,
        Watchdog(stacks, f"rank {run.rank}") as watchdog,
    ):
        watchdog.allow(recipe.pretrain.start_timeout_seconds)
        trainer = Trainer(recipe, run, manifest, stopper, watchdog, sitting)
        status = "FAILED"
        try:
            reason = trainer.train()
            status = "KILLED" if reason else "FINISHED"
        except RuntimeError as error:
            if not _is_loss_of_a_peer(error):
                raise
            raise RunError(
                f"rank {run.rank} has lost another ({' '.join(str(error).split())[:200]}); the same command goes on "
                "from the newest complete checkpoint"
            ) from error
        finally:
            trainer.close(status)
    return REQUEUE if reason else DONE


class Trainer:
    """One rank of a pre-training run."""

    def __init__(
        self, recipe: Recipe, run: Run, manifest: Manifest, stopper: Stopper, watchdog: Watchdog, sitting: Sitting
    ) -> None:
        self.recipe, self.config, self.run, self.manifest = recipe, recipe.pretrain, run, manifest
        self.stopper, self.watchdog, self.sitting = stopper, watchdog, sitting
        self.backbone = Backbone.load(recipe.base)
        self.conditioning = Conditioning.from_backbone(self.backbone, recipe.conditioning)
        self.cluster = join_cluster(recipe)
        run.log_to_file()
        self.backbone.to(self.cluster.accelerator.device)
        if self.config.gradient_checkpointing:
            self.backbone.unet.enable_gradient_checkpointing()
        if self.config.compile:
            torch._dynamo.config.recompile_limit = 64  # a block is compiled for each width, with gradient and without
            self.backbone.unet.compile_repeated_blocks()
        model = DomainModel.start(self.config, self.backbone, self.conditioning)
        self.start = TrainingState.start(model)
        self.blank_offsets = model.offsets.meta_copy()
        self.engine, self.optimizer = build_engine(model, self.config, self.cluster)
        self.validation = Validation(recipe, self.backbone, self.conditioning)
        self.checkpoints = Checkpoints(run.folder / "checkpoints", self.config.keep, self.config.keep_every)
        self.guard = Guard(self.config.skips_allowed, self.config.spike_factor, self._judged)
        self.meter, self.teraflops = Meter(), 0.0
        self.name = self.cluster.rank_0_says(f"{int(time.time())}-{os.getpid()}")
        self.progress, self.saved_step, self.beat = Progress(), -1, 0.0
        self.data: dict[str, Any] = {}
        self.base = self.backbone.fingerprint() if self.cluster.rank == 0 else {}
        self.node = NodeMeter() if self.cluster.accelerator.is_local_main_process else None
        self.tracker = self._track() if self.cluster.rank == 0 else None

    def _track(self) -> Tracker:
        """Begin, or take up, the tracker's run; the first line says what trains."""
        self.run.log(
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
        tracker.dataset(self.manifest.domain, self.manifest.digest, self.recipe.data.output, "training")
        tracker.tags({f"e4t.base.{key}": value for key, value in self.base.items() if value})
        return tracker

    def train(self) -> str:
        """The loop; returns why it stopped before the end, or nothing."""
        state = self._newest_state()
        if self.progress.step >= self.config.steps:
            return ""
        with ExitStack() as stack:
            stream = stack.enter_context(self._stream())
            self._rest_towers()
            self._take_note_of(stream.fingerprint())
            trace = self.run.folder / "profile" / f"rank_{self.run.rank}.json.gz"
            profile = stack.enter_context(traced(trace)) if self.sitting.profile else None
            first = next(stream)
            self._rehearse(first, state)
            gc.disable()
            stack.callback(gc.enable)
            for batch in self._batches(first, stream):
                self._advance(batch)
                if profile:
                    profile.step()
                if reason := self.stopper.asked(self.cluster.largest):
                    break
        self._finish(reason)
        return reason if self.progress.step < self.config.steps else ""

    def _batches(self, first: Batch, stream: ShardStream) -> Iterator[Batch]:
        """As many as there are steps to go."""
        batches = chain([first], stream)
        while self.progress.step < self.config.steps:
            with self.meter.waiting():
                batch = next(batches)
            yield batch

    def _advance(self, batch: Batch) -> None:
        """A step, and what is due after it."""
        losses = self._step(batch)
        self.meter.add(losses)
        self.progress.step += 1
        self.progress.samples_seen = batch.samples_seen
        self.guard.after(Step(self.progress.step, batch.indices[0], batch.keys), losses, self.optimizer.skipped)
        self.watchdog.allow(self.config.step_timeout_seconds)
        if self._due(self.config.log_every):
            self._report()
        saving, looking = self._due(self.config.checkpoint_every), self._due(self.config.sample_every)
        state = self._collect() if saving or looking else None
        if saving:
            self._save(state)
        if looking:
            self._look(state)
        if self.progress.step % COLLECT_EVERY == 0:
            gc.collect()
        self._beat()
        self.watchdog.allow(self.config.step_timeout_seconds)

    def _due(self, every: int) -> bool:
        return self.progress.step % every == 0 or self.progress.step == self.config.steps

    def _newest_state(self) -> TrainingState:
        """Of the newest whole checkpoint, rank 0's answer being everybody's; else of the start."""
        answer = str(self.checkpoints.newest() or "") if self.cluster.rank == 0 else ""
        found = self.cluster.rank_0_says(answer)
        if not found:
            return self.start
        folder = Path(found)
        facts = read_facts(folder)
        self.data = facts["data"]
        self.progress = read_progress(folder)
        self.saved_step = self.progress.step
        if self.cluster.rank == 0:
            log.info("resuming from %s at step %d", folder, self.progress.step)
        return read_state(folder)

    def _stream(self) -> ShardStream:
        return ShardStream(
            self.recipe.data.output,
            "train",
            global_batch_size=self.config.batch_size,
            rank=self.cluster.rank,
            world_size=self.cluster.world,
            seed=self.recipe.seed,
            samples_seen=self.progress.samples_seen,
            config=self.recipe.stream,
            features=open_cache(self.recipe, self.backbone, "train") if self.config.cached else None,
        )

    def _take_note_of(self, data: dict[str, Any]) -> None:
        """Refuse data that are not those of the checkpoint, unless told to go on."""
        if changed := differences(self.data or data, data):
            difference = "; ".join(f"{name}: {then} there, {now} now" for name, then, now in changed)
            if not self.sitting.accept_changes:
                raise ConfigError(
                    f"the run in {self.run.folder} was trained on other data ({difference}); give another name to "
                    "start anew, or go on all the same with --accept-changes true"
                )
            log.warning("going on with other data: %s", difference)
        self.data = data

    def _rehearse(self, batch: Batch, state: TrainingState) -> None:
        """One step on real pictures, so that memory runs out now or never; then the state is what it shall be."""
        try:
            self.teraflops = self._counted_step(batch)
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            at_once, _ = self.config.passes(self.cluster.world)
            raise ConfigError(
                f"out of memory with {at_once} pictures of {self.recipe.data.resolution} pixels at once on a device; "
                f"lower pretrain.micro_batch_size (the batch stays {self.config.batch_size}), or set "
                "pretrain.gradient_checkpointing, offload_optimizer, or base.dtype: bfloat16"
            ) from error
        restore(self.engine, self.optimizer, state)
        self.meter = Meter()

    def _counted_step(self, batch: Batch) -> float:
        """A step, and how many teraflops it takes; 0 for compiled code, which nobody can look into."""
        if self.config.compile:
            self._step(batch)
            return 0.0
        with FlopCounterMode(display=False) as counter:
            self._step(batch)
        return float(counter.get_total_flops()) / 1e12

    def _step(self, batch: Batch) -> Tensor:
        """One optimizer step over this rank's slice; returns its mean losses, (3,), on the device."""
        factor = schedule(self.config, self.progress.step)
        for group, rate in zip(self.engine.optimizer.param_groups, self.config.learning_rates, strict=False):
            group["lr"] = rate * factor  # without offsets there is one group
        draw = draws(self.recipe, self.backbone, [self.recipe.seed * 1_000_003 + index for index in batch.indices])
        prompts = self.conditioning.sample_prompts(batch.captions, draw.prompt_choice)
        self.optimizer.skipped = torch.ones(())  # unless it is asked to step
        at_once, passes = self.config.passes(self.cluster.world)
        totals = []
        for start in range(0, at_once * passes, at_once):
            rows = slice(start, start + at_once)
            losses = self.engine(self._encoded(batch, rows), prompts[rows], draw[rows], self.config.regulariser)
            self.engine.backward(losses.total)
            self.engine.step()
            totals.append(torch.stack([losses.total, losses.denoising, losses.regulariser]).detach().float())
        return torch.stack(totals).mean(dim=0)

    def _encoded(self, batch: Batch, rows: slice) -> EncodedImages:
        if self.config.cached:
            return encoded({name: tensor[rows] for name, tensor in batch.tensors.items()}, self.engine.device)
        return encode_images(self.backbone, to_float(batch.tensors["pixels"][rows].to(self.engine.device)))

    def _judged(self, judged: Judged) -> None:
        """Write this rank's record of a step, and say what was odd about it."""
        step = judged.step
        self.run.log_step(
            step=step.number, start=step.start, count=len(step.keys), sitting=self.name,
            loss=judged.losses[0], skipped=judged.skipped,
        )  # fmt: skip
        if judged.skipped or judged.jumped:
            fault = "a loss or gradient is not finite; skipped" if judged.skipped else "the loss jumped"
            log.warning("step %d: %s (loss %.4g, pictures %s)", step.number, fault, judged.losses[0], list(step.keys))
            self.run.log(step=step.number, skipped=int(judged.skipped), loss_jumped=int(judged.jumped))

    def _report(self) -> None:
        """One line everywhere: metrics.jsonl, the terminal, MLflow. Every rank must call."""
        told = self.cluster.gather((self.meter.read(), self.node.read() if self.node else {}))
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
        line = summarise([ranks for ranks, _ in told], self.config.batch_size, self.teraflops, device)
        self.progress.seconds += line.pop("seconds")
        norm = self.engine.get_global_grad_norm()
        line |= {} if norm is None else {"grad_norm": float(norm)}
        line |= {"learning_rate": self.engine.optimizer.param_groups[0]["lr"], "skipped_steps": self._skipped()}
        if not self.tracker:
            return
        step, left = self.progress.step, self.config.steps - self.progress.step
        eta = clock(left * self.config.batch_size / line["images_per_second"])
        text = "step %d/%d  loss %.4f  %.1f images/s  ETA %s"
        log.info(text, step, self.config.steps, line["loss"], line["images_per_second"], eta)
        self.run.log(step=step, **line)
        self.tracker.metrics(step, line | {key: value for _, node in told for key, value in node.items()})

    def _skipped(self) -> int:
        return self.progress.skipped + self.guard.skipped

    def _beat(self) -> None:
        if time.monotonic() - self.beat >= BEAT_SECONDS:
            self.run.heartbeat(self.progress.step)
            self.beat = time.monotonic()

    def _collect(self) -> TrainingState | None:
        """The whole state, on rank 0. Every rank must call."""
        return collect(self.engine, self.optimizer, keep=self.cluster.rank == 0)

    def _save(self, state: TrainingState | None) -> None:
        """Begin to write a checkpoint; rank 0's thread ends it. Every rank must call."""
        self.guard.flush()
        if state:
            progress = Progress(**vars(self.progress) | {"skipped": self._skipped()})
            facts = {
                "data": self.data,
                "base": self.base,
                "seed": self.recipe.seed,  # every draw follows from it and a sample's position: no other RNG is used
                "world_size": self.cluster.world,
                "zero_stage": self.config.zero_stage,
                "environment": environment(),
            }
            self.checkpoints.save(
                self.progress.step, lambda folder: write_state(folder, state, progress, self.blank_offsets, facts)
            )
        self.saved_step = self.progress.step

    def _look(self, state: TrainingState | None) -> None:
        """Validation loss and a grid of held-out pictures. Every rank must call."""
        self.watchdog.allow(self.config.start_timeout_seconds)
        if self.tracker and state:
            self.backbone.move_encoders(self.backbone.device)
            loss, grid = self.validation.look(state.best)
            self._rest_towers()
            path = self.run.folder / "samples" / f"step_{self.progress.step:08d}.png"
            grid.save(path)
            log.info("step %d  validation loss %.4f  samples %s", self.progress.step, loss, path)
            self.run.log(step=self.progress.step, validation_loss=loss)
            self.tracker.metrics(self.progress.step, {"validation_loss": loss})
            self.tracker.file(path, "samples")
        self.cluster.wait()

    def _rest_towers(self) -> None:
        """What a cache has looked with does not stay on the device."""
        if self.config.cached:
            self.backbone.move_encoders("cpu")

    def _finish(self, reason: str) -> None:
        """Save what is not saved, and wait until it is whole."""
        self.watchdog.allow(self.config.start_timeout_seconds)
        if self.saved_step != self.progress.step:
            self._save(self._collect())
        self.guard.flush()
        self.checkpoints.wait()
        if self.tracker:
            self.tracker.tags({"e4t.checkpoints": "\n".join(str(path) for path in self.checkpoints.complete())})
        self.run.heartbeat(self.progress.step)
        self.cluster.wait()
        if reason and self.cluster.rank == 0:
            log.info(
                "stopped at step %d (%s); everything is saved, start it again to go on", self.progress.step, reason
            )

    def close(self, status: str) -> None:
        """Tell the tracker how it ended."""
        if self.tracker:
            self.tracker.close(status)


def schedule(config: PretrainConfig, step: int) -> float:
    """Factor on the learning rates at a step, from 0."""
    warm = min(1.0, (step + 1) / (config.warmup_steps + 1))
    return warm * (0.5 + 0.5 * math.cos(math.pi * step / config.steps)) if config.decay == "cosine" else warm


def _is_loss_of_a_peer(error: RuntimeError) -> bool:
    """Whether a collective failed, as it does when another rank has ended or its host cannot be reached."""
    said = str(error)
    return isinstance(error, torch.distributed.DistError) or "gloo" in said or "NCCL" in said


def _is_out_of_memory(error: Exception) -> bool:
    said = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in said or "can't allocate memory" in said
