"""The run folder: recipe, environment, metrics, logs, samples and checkpoints of a training run."""

import json
import logging
import socket
import time
from pathlib import Path
from typing import Any

import yaml

from data_prep.config_dict import differences, flatten
from data_prep.storage.atomic import atomic_write
from e4t_errors import ConfigError
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
"""Recipe keys, or prefixes of them, that may change between the attempts of a run."""

_ADDED_IN_THIS_VERSION = "pretrain.max_steps"
"""Recipe key that earlier versions of e4t do not write."""


class Run:
    """A run folder. Rank 0 writes to it; other ranks write only their own logs."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.folder, self.rank = folder, rank

    @classmethod
    def open(cls, recipe: Recipe, rank: int = 0, *, allow_config_change: bool = False) -> "Run":
        """Create the folder, or open that of an earlier attempt with the same recipe.

        Raises ConfigError if an earlier version of e4t wrote the folder, or, with the difference, if it belongs to
        another recipe and ``allow_config_change`` is not set. Every rank checks this itself, so that none of them waits
        for one that has failed.
        """
        run = cls(recipe.folder, rank)
        changed = run._changed_settings(recipe)
        if changed and not allow_config_change:
            difference = "; ".join(changed)
            raise ConfigError(
                f"{run.folder} holds a run of another recipe ({difference}); give the new run another name, delete the "
                "folder, or continue the run with --allow-config-change"
            )
        if rank == 0:
            for name in ("logs", "samples", "checkpoints"):
                (run.folder / name).mkdir(parents=True, exist_ok=True)
            atomic_write(run.folder / "recipe.yaml", yaml.safe_dump(recipe.to_dict(), sort_keys=False))
            atomic_write(run.folder / "environment.json", json.dumps(environment(), indent=1) + "\n")
        return run

    def _changed_settings(self, recipe: Recipe) -> list[str]:
        """Describe each setting that has changed since the run started and affects the trained weights."""
        path = self.folder / "recipe.yaml"
        if not path.exists():
            return []
        previous = flatten(yaml.safe_load(path.read_text()))
        if _ADDED_IN_THIS_VERSION not in previous:
            raise ConfigError(
                f"{self.folder} holds a run of an earlier version of e4t ({path.name} has no "
                f"{_ADDED_IN_THIS_VERSION}); give the new run another name, or delete the folder"
            )
        changed = differences(previous, flatten(recipe.to_dict()))
        mutable: tuple[str, ...] = MUTABLE_SETTINGS
        if recipe.pretrain.lr_schedule == "constant":  # otherwise the learning rate depends on the number of steps
            mutable = (*mutable, "pretrain.max_steps")
        return [f"{key}: {then!r} before, {now!r} now" for key, then, now in changed if not key.startswith(mutable)]

    def log_to_file(self) -> None:
        """Write this rank's log to ``logs/rank_<N>.log`` as well; only rank 0 keeps writing to the terminal."""
        (self.folder / "logs").mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(self.folder / "logs" / f"rank_{self.rank}.log")
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logging.getLogger("e4t").addHandler(handler)
        logging.getLogger("e4t").propagate = self.rank == 0

    def log_step(self, **values: Any) -> None:  # noqa: ANN401 - any plain values
        """Append a line to ``logs/rank_<N>.jsonl``, this rank's record of its steps."""
        with (self.folder / "logs" / f"rank_{self.rank}.jsonl").open("a") as file:
            file.write(json.dumps({"time": round(time.time(), 3), **values}) + "\n")

    def log_metrics(self, **values: Any) -> None:  # noqa: ANN401 - any plain values
        """Append a line to ``metrics.jsonl``, on rank 0."""
        if self.rank == 0:
            with (self.folder / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"time": round(time.time(), 3), **values}) + "\n")

    def heartbeat(self, step: int) -> None:
        """Write step, time and host to ``heartbeat.json``, on rank 0."""
        if self.rank == 0:
            heartbeat = {"step": step, "time": time.time(), "host": socket.gethostname()}
            atomic_write(self.folder / "heartbeat.json", json.dumps(heartbeat) + "\n")
