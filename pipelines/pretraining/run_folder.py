"""The run folder, which is the interface: recipe, environment, metrics, logs, samples, checkpoints."""

import json
import logging
import socket
import time
from pathlib import Path
from typing import Any

import yaml

from data_prep.config_diff import differences, flatten
from data_prep.storage.atomic import atomic_write
from e4t import ConfigError
from pipelines.config.recipe import Recipe
from pipelines.tracking.environment import environment

MUTABLE_SETTINGS = (
    "evaluate.",
    "compare.",
    "publish.",
    "tune.",
    "sample.",
    "pretrain.log_every",
    "pretrain.checkpoint_every",
    "pretrain.keep_last",
    "pretrain.keep_every",
    "pretrain.eval_every",
    "pretrain.eval_samples",
    "pretrain.micro_batch_size",
    "pretrain.zero_stage",
    "pretrain.offload_optimizer",
    "pretrain.gradient_checkpointing",
    "pretrain.compile",
    "pretrain.deterministic",
    "pretrain.max_consecutive_skips",
    "pretrain.loss_spike_factor",
    "pretrain.init_timeout_seconds",
    "pretrain.step_timeout_seconds",
    "pretrain.stop_signal",
    "stream.num_workers",
    "stream.prefetch",
    "stream.cache_dir",
    "stream.cache_max_bytes",
    "stream.retries",
    "stream.backoff_seconds",
    "stream.timeout_seconds",
    "stream.on_error",
)
"""Settings that may change between the sittings of a run."""


class Run:
    """A run folder. Only rank 0 writes, but for its own log each rank."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.folder, self.rank = folder, rank

    @classmethod
    def open(cls, recipe: Recipe, rank: int = 0, *, allow_config_change: bool = False) -> "Run":
        """Make the folder, or take up one of the same recipe.

        Raises ConfigError, with the difference, for another recipe's, unless changes are accepted; on every rank, so
        that none waits for the others.
        """
        run = cls(recipe.folder, rank)
        if (changed := run._changed_settings(recipe)) and not allow_config_change:
            difference = "; ".join(changed)
            raise ConfigError(
                f"{run.folder} holds a run of another recipe ({difference}); give another name, delete it, or go on "
                "all the same with --accept-changes true"
            )
        if rank == 0:
            for name in ("logs", "samples", "checkpoints"):
                (run.folder / name).mkdir(parents=True, exist_ok=True)
            atomic_write(run.folder / "recipe.yaml", yaml.safe_dump(recipe.to_dict(), sort_keys=False))
            atomic_write(run.folder / "environment.json", json.dumps(environment(), indent=1) + "\n")
        return run

    def _changed_settings(self, recipe: Recipe) -> list[str]:
        """What is not as it was when the run began; what leaves the trained weights alone may change."""
        path = self.folder / "recipe.yaml"
        if not path.exists():
            return []
        changed = differences(flatten(yaml.safe_load(path.read_text())), flatten(recipe.to_dict()))
        mutable = (
            MUTABLE_SETTINGS if recipe.pretrain.lr_schedule == "cosine" else (*MUTABLE_SETTINGS, "pretrain.max_steps")
        )
        return [f"{key}: {then!r} there, {now!r} now" for key, then, now in changed if not key.startswith(mutable)]

    def log_to_file(self) -> None:
        """Let this rank's lines go to its own log file, too; only rank 0's are for the terminal."""
        (self.folder / "logs").mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(self.folder / "logs" / f"rank_{self.rank}.log")
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logging.getLogger("e4t").addHandler(handler)
        logging.getLogger("e4t").propagate = self.rank == 0

    def log_step(self, **values: Any) -> None:  # noqa: ANN401 - any plain values
        """Append a line to this rank's own record of its steps."""
        with (self.folder / "logs" / f"rank_{self.rank}.jsonl").open("a") as file:
            file.write(json.dumps({"time": round(time.time(), 3), **values}) + "\n")

    def log_metrics(self, **values: Any) -> None:  # noqa: ANN401 - any plain values
        """Append a line to metrics.jsonl."""
        if self.rank == 0:
            with (self.folder / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"time": round(time.time(), 3), **values}) + "\n")

    def heartbeat(self, step: int) -> None:
        """Say that the run lives, and where it is."""
        if self.rank == 0:
            beat = {"step": step, "time": time.time(), "host": socket.gethostname()}
            atomic_write(self.folder / "heartbeat.json", json.dumps(beat) + "\n")
