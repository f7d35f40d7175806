"""The training loop of ``e4t pretrain`` on one rank."""

import gc
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch.profiler import profile

from data_prep.stream.stream import Batch
from pipelines.config.pretraining import PretrainConfig
from pipelines.pretraining.checkpoints.checkpointer import Checkpointer
from pipelines.pretraining.checkpoints.format import Progress
from pipelines.pretraining.checkpoints.state import TrainingState
from pipelines.pretraining.metrics import MetricsLogger
from pipelines.pretraining.run_folder import Run
from pipelines.pretraining.signals import StopSignalHandler
from pipelines.pretraining.step_monitor import StepMonitor, StepRecord
from pipelines.pretraining.train_step import StepOutput, TrainStep
from pipelines.pretraining.validation import Validation
from pipelines.pretraining.watchdog import Watchdog
from pipelines.runtime.process_group import ProcessGroup

log = logging.getLogger("e4t")
GC_INTERVAL = 100
"""Steps between garbage collections. All ranks collect at the same step; otherwise each of them would delay the others
at steps of its own."""
HEARTBEAT_SECONDS = 10.0
"""Least seconds between two updates of ``heartbeat.json``."""


@dataclass(kw_only=True)
class Trainer:
    """Run training steps until ``max_steps`` or a request to stop; log, save and validate when they are due.

    ``builder.build_trainer`` builds the parts and restores the training state.
    """

    config: PretrainConfig
    run: Run
    process_group: ProcessGroup
    batches: Iterator[Batch]
    """This rank's part of each global batch, from the first step that is left."""
    run_step: TrainStep
    progress: Progress
    checkpointer: Checkpointer
    validation: Validation
    metrics: MetricsLogger
    step_monitor: StepMonitor
    stop_handler: StopSignalHandler
    watchdog: Watchdog
    profiler: profile | None = None
    last_heartbeat: float = 0.0

    def train(self) -> str:
        """Train, and return the reason for stopping before ``max_steps``, or an empty string."""
        stop_reason = ""
        with _collect_garbage_manually():
            while self.progress.step < self.config.max_steps and not stop_reason:
                self.train_step()
                self._run_due_tasks()
                if self.profiler:
                    self.profiler.step()
                stop_reason = self.stop_handler.should_stop(self.process_group.all_reduce_max)
        if self.progress.step >= self.config.max_steps:
            stop_reason = ""
        self._finish(stop_reason)
        return stop_reason

    def train_step(self) -> None:
        """Fetch a batch, run forward, backward and optimizer step on it, and log the result."""
        with self.metrics.accumulator.data_wait():
            batch = next(self.batches)
        output = self.run_step(batch, self.progress.step)
        self.progress.step += 1
        self.progress.samples_seen = batch.samples_seen
        self._log_step(batch, output)
        self.watchdog.reset(self.config.step_timeout_seconds)

    def _log_step(self, batch: Batch, output: StepOutput) -> None:
        self.metrics.accumulator.add(output.losses)
        record = StepRecord(self.progress.step, batch.indices[0], batch.keys)
        self.step_monitor.record(record, output.losses, output.skipped)
        if self._is_due(self.config.log_every):
            optimizer_metrics = self.run_step.metrics() | {"skipped_steps": self.step_monitor.num_skipped}
            self.progress.seconds += self.metrics.log_training(self.progress.step, optimizer_metrics)

    def _run_due_tasks(self) -> None:
        """Save a checkpoint, validate, collect garbage and write the heartbeat, each if it is due."""
        save, validate = self._is_due(self.config.checkpoint_every), self._is_due(self.config.eval_every)
        state = self.checkpointer.gather() if save or validate else None
        if save:
            self._save(state)
        if validate:
            self._validate(state)
        if self.progress.step % GC_INTERVAL == 0:
            gc.collect()
        if time.monotonic() - self.last_heartbeat >= HEARTBEAT_SECONDS:
            self._heartbeat()
        self.watchdog.reset(self.config.step_timeout_seconds)

    def _is_due(self, every: int) -> bool:
        return self.progress.step % every == 0 or self.progress.step == self.config.max_steps

    def _save(self, state: TrainingState | None) -> None:
        """Start writing a checkpoint of a gathered state. Every rank must call this."""
        self.step_monitor.flush()
        self.progress.skipped = self.step_monitor.num_skipped
        self.checkpointer.save(state, self.progress)

    def _validate(self, state: TrainingState | None) -> None:
        """Validate on rank 0, which has the state, while the others wait. Every rank must call this."""
        self.watchdog.reset(self.config.init_timeout_seconds)
        if state is not None:
            loss, grid = self.validation.evaluate(state.ema_or_weights)
            self.metrics.log_validation(self.progress.step, loss, grid)
        self.process_group.barrier()

    def _heartbeat(self) -> None:
        self.run.heartbeat(self.progress.step)
        self.last_heartbeat = time.monotonic()

    def _finish(self, stop_reason: str) -> None:
        """Save the last step if it is not saved yet, and wait until all checkpoints are complete."""
        self.watchdog.reset(self.config.init_timeout_seconds)
        if self.checkpointer.saved_step != self.progress.step:
            self._save(self.checkpointer.gather())
        self.step_monitor.flush()
        checkpoints = self.checkpointer.wait()
        self.metrics.log_checkpoints(checkpoints)
        self._heartbeat()
        self.process_group.barrier()
        if stop_reason and self.process_group.rank == 0:
            log.info("stopped at step %d (%s); checkpoint saved, rerun to resume", self.progress.step, stop_reason)


@contextmanager
def _collect_garbage_manually() -> Iterator[None]:
    """Turn automatic garbage collection off inside the ``with`` block: it would delay single ranks at any step."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
