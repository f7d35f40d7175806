"""Write the files that training and evaluation leave, without running them: manifest, checkpoints and report."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from data_prep.config import PrepareConfig
from data_prep.shards.manifest import Manifest
from data_prep.storage.atomic import atomic_write
from data_prep.storage.store import Store
from encoder.backbone.backbone import Backbone
from encoder.config import BackboneConfig, ConditioningConfig, SampleConfig, TuneConfig
from encoder.model.domain_encoder import DomainEncoder, DomainEncoderConfig
from encoder.model.weight_offsets import OffsetPredictor
from pipelines.config.pretraining import PretrainConfig
from pipelines.config.recipe import Recipe, ReleaseConfig
from pipelines.evaluation.report import Estimate, EvaluatedRelease, Report, Row
from pipelines.pretraining.checkpoints.format import Progress, save_state
from pipelines.pretraining.checkpoints.manager import CheckpointManager
from pipelines.pretraining.checkpoints.state import TrainingState
from pipelines.pretraining.run_folder import Run
from pipelines.tracking.environment import environment
from tests.bases import SHIPPED

REVISION = "0123456789abcdef0123456789abcdef01234567"
"""Code revision that the checkpoints of these runs record."""


@dataclass
class Trained:
    """Modules as they would be after training."""

    encoder: DomainEncoder
    predictor: OffsetPredictor
    base: dict[str, str | None]
    metadata: dict[str, Any] = field(default_factory=dict)
    """Replaces entries of the metadata of a checkpoint."""

    @classmethod
    def of_shipped_base(cls) -> "Trained":
        """Create modules for the base model in ``models/base``."""
        base = Backbone.load(BackboneConfig(model=str(SHIPPED)))
        torch.manual_seed(0)
        encoder = DomainEncoder(DomainEncoderConfig.for_backbone(base, hidden_width=32))
        nn.init.normal_(encoder.out_proj.weight)
        return cls(encoder, OffsetPredictor.for_unet(base.unet), base.fingerprint())

    @property
    def state(self) -> TrainingState:
        """The training state of these modules."""
        return TrainingState.from_model(nn.ModuleDict({"encoder": self.encoder, "offsets": self.predictor}))


def recipe_in(folder: Path, name: str = "faces", **publish: Any) -> Recipe:
    """Return a recipe whose runs and shards are in ``folder``."""
    return Recipe(
        name=name,
        runs=str(folder / "runs"),
        base=BackboneConfig(model=str(SHIPPED)),
        data=PrepareConfig(source=str(folder / "faces"), output=str(folder / "shards"), domain="person", resolution=64),
        conditioning=ConditioningConfig(domain_word="person", templates=("a portrait of a *s",)),
        pretrain=PretrainConfig(hidden_width=32),
        tune=TuneConfig(steps=1, batch_size=2),
        sample=SampleConfig(num_inference_steps=2),
        publish=ReleaseConfig(**publish),
    )


def made_run(recipe: Recipe, trained: Trained, *steps: int) -> Run:
    """Create a run with checkpoints of these steps, and a dataset without shards."""
    if not Path(recipe.data.output).exists():
        Path(recipe.data.output).mkdir(parents=True)
        Manifest(
            domain="person", resolution=64, format="png", config_digest="c", identities={"train": 1200}, kept=0,
            reject_counts={}, splits={"train": [], "val": [], "test": []},
        ).save(Store(recipe.data.output))  # fmt: skip
    run = Run.open(recipe)
    for step in steps:
        save(recipe, trained, step)
    return run


def save(recipe: Recipe, trained: Trained, step: int, state: TrainingState | None = None) -> Path:
    """Write a checkpoint of a step; returns its folder."""
    metadata = {
        "data": {"dataset": Manifest.load(recipe.data.output).digest},
        "base": trained.base,
        "environment": environment() | {"code": REVISION},
        **trained.metadata,
    }
    checkpoints = CheckpointManager(recipe.folder / "checkpoints", keep_last=10)
    progress = Progress(step=step, samples_seen=64 * step, seconds=90.0)
    checkpoints.save(
        step, lambda folder: save_state(folder, state or trained.state, progress, trained.predictor, metadata)
    )
    checkpoints.wait()
    return checkpoints.list_complete()[-1]


def evaluate(recipe: Recipe, weights: str, **means: float) -> None:
    """Write a report and a grid like ``e4t evaluate`` after evaluating these weights."""
    scores = {name: Estimate(mean, mean - 0.1, mean + 0.1) for name, mean in means.items()}
    worse = {name: Estimate(0.0, 0.0, 0.0) for name in means}
    rows = [("base from caption", 0, worse), ("pretrained", 0, worse), ("pretrained", 15, scores)]
    seconds = Estimate(1.0, 1.0, 1.0)
    report = Report(
        recipe=recipe.to_dict(),
        releases={"somewhere": EvaluatedRelease("faces 0.0.0", weights)},
        environment={},
        concepts={"0001": ["a portrait of *s"], "0002": ["a portrait of *s"]},
        rows=[Row(system, steps, 1, estimates, seconds, 1.0) for system, steps, estimates in rows],
    )
    folder = recipe.folder / "evaluation"
    report.save(folder)
    Image.new("RGB", (8, 8), "red").save(folder / "grid.png")


def log(recipe: Recipe, *lines: str) -> None:
    """Write lines to metrics.jsonl."""
    atomic_write(recipe.folder / "metrics.jsonl", "".join(f"{line}\n" for line in lines))
