"""``e4t pretrain``: learn the domain encoder and the weight offsets on a prepared set."""

import json
import logging
import math
import os
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from data_prep.files import write_whole
from data_prep.manifest import Manifest
from data_prep.settings import flatten
from data_prep.stream import Batch, ShardReader, ShardStream, as_images
from encoder.backbone import Backbone
from encoder.conditioning import Conditioning
from encoder.domain_encoder import DomainEncoder, DomainEncoderConfig
from encoder.features import Encoded, encode_pictures
from encoder.objective import Draw
from encoder.weight_offsets import OffsetPredictor
from pipelines.cache import encoded, open_cache
from pipelines.checkpoints import Checkpoints
from pipelines.config import PretrainConfig, Recipe
from pipelines.engine import DomainModel, build_engine, join_cluster, save_trainable
from pipelines.errors import RunError
from pipelines.meter import LOSSES, Meter, clock
from pipelines.run import Run
from pipelines.sampling import training_grid
from pipelines.tracking import Tracker

log = logging.getLogger("e4t")
GRID_ROWS = 6


def pretrain(recipe: Recipe) -> None:
    """Be one rank of a run: train to the recipe's steps, from the newest complete checkpoint if there is one."""
    manifest = Manifest.load(recipe.data.output)
    run = Run.open(recipe, int(os.environ["RANK"]))
    trainer = Trainer(recipe, run, manifest)
    trainer.resume()
    status = "FAILED"
    try:
        trainer.train()
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        if trainer.tracker:
            trainer.tracker.close(status)


@dataclass
class Progress:
    """Where a run is; saved with each checkpoint."""

    step: int = 0
    samples_seen: int = 0
    seconds: float = 0.0
    """Spent in training, over all sittings."""


class Trainer:
    """One rank of a pre-training run."""

    def __init__(self, recipe: Recipe, run: Run, manifest: Manifest) -> None:
        self.recipe, self.config, self.run, self.manifest = recipe, recipe.pretrain, run, manifest
        self.backbone = Backbone.load(recipe.base)
        self.conditioning = Conditioning.of(self.backbone, recipe.conditioning)
        self.cluster = join_cluster(recipe)
        run.log_to_file()
        self.backbone.to(self.cluster.accelerator.device)
        if self.config.gradient_checkpointing:
            self.backbone.unet.enable_gradient_checkpointing()
        self.engine = build_engine(self._model(), self.config, self.cluster)
        self.checkpoints = Checkpoints(run.folder / "checkpoints", self.config.keep, self.config.keep_every)
        self.progress, self.meter = Progress(), Meter()
        self.tracker = self._track() if self.cluster.rank == 0 else None

    def _model(self) -> DomainModel:
        encoder = DomainEncoder(DomainEncoderConfig.for_backbone(self.backbone, self.config.hidden_width))
        return DomainModel(encoder, OffsetPredictor.for_unet(self.backbone.unet), self.backbone, self.conditioning)

    def _track(self) -> Tracker:
        """Begin, or take up, the tracker's run; the first line says what trains."""
        self.run.log(
            engine=type(self.engine).__name__,
            world_size=self.engine.world_size,
            zero_stage=self.engine.zero_optimization_stage(),
            bf16=self.engine.bfloat16_enabled(),
        )
        tracker = Tracker(self.recipe.runs, self.run.folder, "e4t", self.recipe.name)
        tracker.params(flatten(self.recipe.plain()))
        tracker.tags({"e4t.stage": "pretrain"})
        tracker.dataset(self.manifest.concept, self.manifest.digest, self.recipe.data.output)
        return tracker

    def resume(self) -> None:
        """Load the newest complete checkpoint, rank 0's answer being everybody's."""
        answer = [str(self.checkpoints.newest() or "")]
        if self.cluster.world > 1:
            torch.distributed.broadcast_object_list(answer)
        if not answer[0]:
            return
        folder = Path(answer[0])
        state = json.loads((folder / "state.json").read_text())
        if state.pop("manifest_digest") != self.manifest.digest:
            raise RunError(
                f"{folder} was trained on other shards than {self.recipe.data.output} holds now; "
                "give another name to start anew"
            )
        self.engine.load_checkpoint(folder, tag="engine")
        self.progress = Progress(**state)
        if self.cluster.rank == 0:
            log.info("resuming from %s at step %d", folder, self.progress.step)

    def train(self) -> None:
        """The loop."""
        with self._stream() as stream:
            while self.progress.step < self.config.steps:
                batch = next(stream)
                self.meter.add(self._step(batch))
                self.progress.step += 1
                self.progress.samples_seen = batch.samples_seen
                if self._due(self.config.log_every):
                    self._report()
                if self._due(self.config.sample_every):
                    self._look()
                if self._due(self.config.checkpoint_every):
                    self._save()

    def _due(self, every: int) -> bool:
        return self.progress.step % every == 0 or self.progress.step == self.config.steps

    def _stream(self) -> ShardStream:
        return ShardStream(
            self.recipe.data.output,
            "train",
            global_batch=self.config.batch_size,
            rank=self.cluster.rank,
            world=self.cluster.world,
            seed=self.recipe.seed,
            samples_seen=self.progress.samples_seen,
            config=self.recipe.stream,
            features=open_cache(self.recipe, self.backbone, "train") if self.config.cached else None,
        )

    def _step(self, batch: Batch) -> Tensor:
        """One optimizer step over this rank's slice; returns its mean losses."""
        factor = schedule(self.config, self.progress.step)
        for group, rate in zip(self.engine.optimizer.param_groups, self.config.learning_rates, strict=True):
            group["lr"] = rate * factor
        draw = self._draw([self.recipe.seed * 1_000_003 + index for index in batch.indices])
        captions = zip(batch.captions, draw.choice.tolist(), strict=True)
        prompts = self.conditioning.tokenize([self.conditioning.prompt_for(*pair) for pair in captions])
        totals = torch.zeros(len(LOSSES))
        starts = range(0, len(batch.keys), self.config.micro_batch_size)
        for start in starts:
            rows = slice(start, start + self.config.micro_batch_size)
            losses = self.engine(self._encoded(batch, rows), prompts[rows], draw[rows], self.config.regulariser)
            if not torch.isfinite(losses.total):
                raise RunError(
                    f"the loss is {float(losses.total)} at step {self.progress.step}, pictures {batch.keys[rows]}; "
                    "lower pretrain.learning_rate"
                )
            self.engine.backward(losses.total)
            self.engine.step()
            totals += torch.stack([losses.total, losses.denoising, losses.regulariser]).detach().float().cpu()
        return totals / len(starts)

    def _encoded(self, batch: Batch, rows: slice) -> Encoded:
        if self.config.cached:
            return encoded({name: tensor[rows] for name, tensor in batch.tensors.items()}, self.engine.device)
        return encode_pictures(self.backbone, as_images(batch.tensors["pixels"][rows].to(self.engine.device)))

    def _draw(self, seeds: list[int]) -> Draw:
        shape = self.backbone.latent_shape(self.recipe.data.resolution)
        return Draw.for_samples(seeds, shape, self.backbone.noise_schedule.config.num_train_timesteps)

    def _report(self) -> None:
        """One line everywhere: metrics.jsonl, the terminal, MLflow. Every rank must call."""
        line = self.meter.read(self.config.batch_size)
        values = torch.tensor([line[name] for name in LOSSES], device=self.cluster.accelerator.device)
        line |= dict(zip(LOSSES, self.cluster.accelerator.reduce(values, "mean").tolist(), strict=True))
        self.progress.seconds += line.pop("seconds")
        norm = self.engine.get_global_grad_norm()
        line |= {"grad_norm": float(norm or 0), "learning_rate": self.engine.optimizer.param_groups[0]["lr"]}
        if not self.tracker:
            return
        step, left = self.progress.step, self.config.steps - self.progress.step
        eta = clock(left * self.config.batch_size / line["images_per_second"])
        text = "step %d/%d  loss %.4f  %.1f images/s  ETA %s"
        log.info(text, step, self.config.steps, line["loss"], line["images_per_second"], eta)
        self.run.log(step=step, **line)
        self.run.heartbeat(step)
        self.tracker.metrics(step, line)

    def _save(self) -> None:
        """Write a checkpoint. Every rank must call."""
        if self.cluster.rank == 0:
            self.checkpoints.begin(self.progress.step)
        self.cluster.wait()
        aside = self.checkpoints.aside(self.progress.step)
        self.engine.save_checkpoint(aside, tag="engine", exclude_frozen_parameters=True)
        save_trainable(self.engine, aside / "trainable", self.cluster.rank)
        self.cluster.wait()
        if self.cluster.rank == 0:
            state = asdict(self.progress) | {"manifest_digest": self.manifest.digest}
            write_whole(aside / "state.json", json.dumps(state, indent=1) + "\n")
            log.info("checkpoint %s", self.checkpoints.commit(self.progress.step))
        self.cluster.wait()

    def _look(self) -> None:
        """Validation loss and a grid of held-out pictures, on randomness of its own. Every rank must call."""
        if self.tracker:
            loss = self.validation_loss()
            path = self.run.folder / "samples" / f"step_{self.progress.step:08d}.png"
            rows = list(islice(ShardReader(self.recipe.data.output, "val", self.recipe.stream), GRID_ROWS))
            training_grid(self.engine.module, rows, self.recipe, self.backbone, self.conditioning).save(path)
            log.info("step %d  validation loss %.4f  samples %s", self.progress.step, loss, path)
            self.run.log(step=self.progress.step, validation_loss=loss)
            self.tracker.metrics(self.progress.step, {"validation_loss": loss})
            self.tracker.file(path, "samples")
        self.cluster.wait()

    @torch.no_grad()
    def validation_loss(self) -> float:
        """Mean denoising loss of held-out pictures at fixed noise and timesteps."""
        reader = ShardReader(self.recipe.data.output, "val", self.recipe.stream)
        step = max(1, len(reader) // self.config.validate_samples)
        samples = [reader[index] for index in range(0, len(reader), step)][: self.config.validate_samples]
        pixels = torch.stack([sample.image for sample in samples])
        draw = self._draw(list(range(len(samples))))
        captions = zip((sample.caption for sample in samples), draw.choice.tolist(), strict=True)
        prompts = self.conditioning.tokenize([self.conditioning.prompt_for(*pair) for pair in captions])
        return float(self.engine.module(encode_pictures(self.backbone, pixels), prompts, draw, 0.0).denoising)


def schedule(config: PretrainConfig, step: int) -> float:
    """Factor on the learning rates at a step, from 0."""
    warm = min(1.0, (step + 1) / (config.warmup_steps + 1))
    return warm * (0.5 + 0.5 * math.cos(math.pi * step / config.steps)) if config.decay == "cosine" else warm
