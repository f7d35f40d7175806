"""Save the training state of a run to its checkpoints folder, and load it when the run is resumed."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from deepspeed import DeepSpeedEngine

from encoder.finite import first_nonfinite
from encoder.model.weight_offsets import OffsetPredictor
from pipelines.errors import RunError
from pipelines.pretraining.checkpoints.format import Progress, load_metadata, load_progress, load_state, save_state
from pipelines.pretraining.checkpoints.gather import gather_state
from pipelines.pretraining.checkpoints.manager import CheckpointManager
from pipelines.pretraining.checkpoints.state import TrainingState
from pipelines.pretraining.optimizer import SkipStepAdamW
from pipelines.runtime.process_group import ProcessGroup

log = logging.getLogger("e4t")


class Checkpointer:
    """Save the training state of a run, which is sharded over all ranks, and load it again. Rank 0 writes."""

    def __init__(
        self,
        manager: CheckpointManager,
        process_group: ProcessGroup,
        engine: DeepSpeedEngine,
        optimizer: SkipStepAdamW,
        meta_offsets: OffsetPredictor,
        metadata: Mapping[str, Any],
    ) -> None:
        """Save ``metadata`` with every checkpoint. ``meta_offsets`` has the structure of the trained predictor."""
        self.manager, self.process_group, self.engine, self.optimizer = manager, process_group, engine, optimizer
        self.meta_offsets, self.metadata = meta_offsets, metadata
        self.saved_step = -1

    def gather(self) -> TrainingState | None:
        """Gather the full training state on rank 0; other ranks get None. Every rank must call this."""
        return gather_state(self.engine, self.optimizer, keep=self.process_group.rank == 0)

    def save(self, state: TrainingState | None, progress: Progress) -> None:
        """Start writing a checkpoint on the rank that has the state. Every rank must call this.

        Raises RunError on every rank, and writes nothing, if a weight is not finite.
        """
        diverged = self.process_group.broadcast_from_rank_0(first_nonfinite(state.weights) or "" if state else "")
        if diverged:
            raise RunError(
                f"step {progress.step}: {diverged} holds values that are not finite (NaN or infinite), and no "
                "checkpoint was written; lower pretrain.learning_rate and rerun: it resumes from the last checkpoint"
            )
        self.saved_step = progress.step
        if state is not None:
            snapshot = replace(progress)
            self.manager.save(
                progress.step, lambda folder: save_state(folder, state, snapshot, self.meta_offsets, self.metadata)
            )

    def wait(self) -> list[Path]:
        """Wait until the checkpoint being written is complete, and return all complete checkpoints, oldest first."""
        self.manager.wait()
        return self.manager.list_complete()


def load_latest_checkpoint(
    manager: CheckpointManager, process_group: ProcessGroup
) -> tuple[TrainingState, Progress, dict[str, Any]] | None:
    """Return state, progress and data fingerprint of the latest intact checkpoint, or None if there is none.

    Rank 0 chooses the checkpoint for all ranks, each of which must call this and can read the folder.
    """
    latest = str(manager.latest() or "") if process_group.rank == 0 else ""
    latest = process_group.broadcast_from_rank_0(latest)
    if not latest:
        return None
    folder = Path(latest)
    progress = load_progress(folder)
    if process_group.rank == 0:
        log.info("resuming from %s at step %d", folder, progress.step)
    return load_state(folder), progress, load_metadata(folder)["data"]
