"""A small pre-training run: drawn faces, the tiny base, a dozen steps, a checkpoint every second one."""

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
"""Seconds after which a rank gives up a step, or a start, that does not end."""


@dataclass(frozen=True)
class Job:
    """What is run, and where its traces are."""

    recipe: dict[str, Any]
    folder: Path
    """Of the recipe and of all runs."""

    @classmethod
    def make(cls, folder: Path, steps: int) -> "Job":
        """Draw, prepare, and write the recipe. Training crosses from the first epoch into the second."""
        faces, shards = folder / "faces", folder / "shards"
        generate_faces(FacesConfig(output=str(faces), num_identities=40, images_per_identity=2))
        data = {"source": str(faces), "output": str(shards), "concept": "person", "resolution": 64, "shard_samples": 10}
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
                "max_steps": steps, "global_batch_size": 8, "micro_batch_size": 2, "learning_rate": 1.0e-3, "hidden_width": 64,
                "log_every": 1, "checkpoint_every": 2, "eval_every": 1000, "eval_samples": 4, "zero_stage": 2,
                "step_timeout_seconds": STEP_TIMEOUT, "init_timeout_seconds": START_TIMEOUT,
            },
        }  # fmt: skip
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        return cls(recipe, folder)

    @property
    def steps(self) -> int:
        """Optimizer steps of the run."""
        return int(self.recipe["pretrain"]["max_steps"])

    @property
    def batch(self) -> int:
        """Samples a step."""
        return int(self.recipe["pretrain"]["global_batch_size"])

    def order(self) -> GlobalOrder:
        """In which the samples come."""
        shards = Manifest.load(self.recipe["data"]["output"]).splits["train"]
        return GlobalOrder([shard.samples for shard in shards], seed=SEED, window_shards=WINDOW_SHARDS)

    def run(self, name: str) -> "RunFolder":
        """The run of that name, begun or not."""
        return RunFolder(self.folder / "runs" / name)

    def on_one_host(self, name: str, ranks: int) -> list[str]:
        """The command for one host."""
        return [*self._pretrain(name), "--nproc", str(ranks)]

    def on_each_of(self, hosts: Sequence[Host], name: str) -> list[str]:
        """The command for each of several hosts, a rank each."""
        words = (
            f"--nnodes {len(hosts)} --nproc-per-node 1 --max-restarts 100 --rdzv-id {name} "
            f"--rdzv-backend c10d --rdzv-endpoint {hosts[0].name}:{PORT}"
        )
        return [sys.executable, "-m", "torch.distributed.run", *words.split(), *self._pretrain(name)[1:]]

    def _pretrain(self, name: str) -> list[str]:
        return [sys.executable, "-m", "e4t", "pretrain", "--recipe", str(self.folder / "recipe.yaml"), "--name", name]


@dataclass(frozen=True)
class RunFolder:
    """What a run leaves."""

    path: Path

    def lines(self) -> list[dict[str, Any]]:
        """Of metrics.jsonl, whole ones."""
        path = self.path / "metrics.jsonl"
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def steps(self) -> list[tuple[float, int]]:
        """When each step was done, in the order in which that happened; a step that was redone comes again."""
        return [(line["time"], line["step"]) for line in self.lines() if "loss" in line]

    def saving(self) -> bool:
        """Whether a checkpoint is being written, or was when the writer died."""
        return any((self.path / "checkpoints").glob(".step_????????.partial"))

    def weights(self, step: int) -> Path:
        """The folder of the trained weights after a step."""
        return self.path / "checkpoints" / f"step_{step:08d}" / "trainable"
