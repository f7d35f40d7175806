"""A small pretraining run: synthetic faces, the tiny base model, twelve steps, a checkpoint every second step."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.faults.hosts import Host
from data_prep.config import PrepareConfig
from data_prep.prepare.pipeline import prepare
from data_prep.shards.manifest import Manifest
from data_prep.stream.shuffle import GlobalOrder
from data_prep.synthetic.faces import FacesConfig, generate_faces

ROOT = Path(__file__).parents[2]
PORT = 29400
SEED = 0
WINDOW_SHARDS = 3
RANKS = 2
STEP_TIMEOUT = 15.0
START_TIMEOUT = 90.0
"""Seconds after which the watchdog ends a rank that hangs in a step, or in a start."""


@dataclass(frozen=True)
class Job:
    """The recipe and the folder of all runs."""

    recipe: dict[str, Any]
    folder: Path
    """Folder of the recipe and of all runs."""

    @classmethod
    def make(cls, folder: Path, steps: int) -> "Job":
        """Generate and prepare a dataset, and write the recipe. Training continues into the second epoch."""
        faces, shards = folder / "faces", folder / "shards"
        generate_faces(FacesConfig(output=str(faces), num_identities=40, images_per_identity=2))
        data = {"source": str(faces), "output": str(shards), "domain": "person", "resolution": 64, "shard_samples": 10}
        prepare(PrepareConfig(**data))  # type: ignore[arg-type]
        recipe = {
            "name": "job",
            "runs": str(folder / "runs"),
            "seed": SEED,
            "base": {"model": str(ROOT / "models" / "base")},
            "data": data,
            "stream": {"shuffle_window_shards": WINDOW_SHARDS},
            "conditioning": {"domain_word": "person", "templates": ["a portrait of a *s"], "caption_probability": 0.5},
            "pretrain": {
                "max_steps": steps, "global_batch_size": 8, "micro_batch_size": 2, "learning_rate": 1.0e-3,
                "hidden_width": 64, "zero_stage": 2, "log_every": 1, "checkpoint_every": 2, "eval_every": 1000,
                "eval_samples": 4, "step_timeout_seconds": STEP_TIMEOUT, "init_timeout_seconds": START_TIMEOUT,
            },
        }  # fmt: skip
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        return cls(recipe, folder)

    @property
    def steps(self) -> int:
        """Number of optimizer steps of a run."""
        return int(self.recipe["pretrain"]["max_steps"])

    @property
    def batch(self) -> int:
        """Samples per optimizer step."""
        return int(self.recipe["pretrain"]["global_batch_size"])

    def order(self) -> GlobalOrder:
        """Return the global order of the samples."""
        shards = Manifest.load(self.recipe["data"]["output"]).splits["train"]
        return GlobalOrder([shard.samples for shard in shards], seed=SEED, window_shards=WINDOW_SHARDS)

    def run(self, name: str) -> "RunFolder":
        """Return the run folder of that name, which need not exist yet."""
        return RunFolder(self.folder / "runs" / name)

    def on_one_host(self, name: str, ranks: int) -> list[str]:
        """Return the command that runs all ranks on one host."""
        return [*self._pretrain(name), "--nproc", str(ranks)]

    def on_each_of(self, hosts: Sequence[Host], name: str) -> list[str]:
        """Return the command that runs one rank, for each of several hosts."""
        arguments = (
            f"--nnodes {len(hosts)} --nproc-per-node 1 --max-restarts 100 --rdzv-id {name} "
            f"--rdzv-backend c10d --rdzv-endpoint {hosts[0].name}:{PORT}"
        )
        return [sys.executable, "-m", "torch.distributed.run", *arguments.split(), *self._pretrain(name)[1:]]

    def _pretrain(self, name: str) -> list[str]:
        return [sys.executable, "-m", "e4t", "pretrain", "--recipe", str(self.folder / "recipe.yaml"), "--name", name]


@dataclass(frozen=True)
class RunFolder:
    """The files that a run has written."""

    path: Path

    def lines(self) -> list[dict[str, Any]]:
        """Return the complete lines of metrics.jsonl."""
        path = self.path / "metrics.jsonl"
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def steps(self) -> list[tuple[float, int]]:
        """Return time and number of each finished step, in order of time; a repeated step comes again."""
        return [(line["time"], line["step"]) for line in self.lines() if "loss" in line]

    def saving(self) -> bool:
        """Return whether a checkpoint is being written, or was when its process was killed."""
        return any((self.path / "checkpoints").glob(".step_????????.partial"))

    def weights(self, step: int) -> Path:
        """Return the folder of the trained weights after a step."""
        return self.path / "checkpoints" / f"step_{step:08d}" / "trainable"
