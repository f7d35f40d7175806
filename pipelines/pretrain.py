"""``e4t pretrain``: learn the domain encoder and the weight offsets on a prepared set."""

import json
import logging
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from deepspeed import DeepSpeedEngine
from torch import Tensor

from data_prep.files import write_whole
from data_prep.manifest import Manifest
from data_prep.stream import Batch, Sample, ShardReader, ShardStream
from encoder.backbone import Backbone
from encoder.conditioning import Conditioning
from encoder.domain_encoder import DomainEncoder, DomainEncoderConfig
from encoder.objective import Draw
from encoder.weight_offsets import OffsetPredictor
from pipelines.checkpoints import Checkpoints
from pipelines.config import PretrainConfig, Recipe, flatten
from pipelines.engine import Cluster, DomainModel, build_engine, join_cluster, save_trainable
from pipelines.errors import RunError
from pipelines.run import Run
from pipelines.sampling import training_grid
from pipelines.tracking import Tracker

log = logging.getLogger("e4t")


@dataclass
class Progress:
    """Where a run is; saved with each checkpoint."""

    step: int = 0
    samples_seen: int = 0
    seconds: float = 0.0
    """Spent in training, over all sittings."""


def pretrain(recipe: Recipe) -> Path:
    """Train to the recipe's steps, from the newest complete checkpoint if there is one; returns the last checkpoint."""
    manifest = Manifest.load(recipe.data.output)
    run = Run.open(recipe, int(os.environ["RANK"]))
    backbone = Backbone.load(recipe.base)
    cluster = join_cluster(recipe)
    run.log_to_file()
    backbone.to(cluster.accelerator.device)
    if recipe.pretrain.gradient_checkpointing:
        backbone.unet.enable_gradient_checkpointing()
    conditioning = Conditioning.of(backbone, recipe.conditioning)
    engine = build_engine(_domain_model(recipe, backbone, conditioning), recipe.pretrain, cluster)
    checkpoints = Checkpoints(run.folder / "checkpoints", recipe.pretrain.keep)
    progress = _resume(engine, checkpoints, cluster, manifest)
    tracker = Tracker(recipe.runs, run.folder, "e4t", recipe.name) if cluster.rank == 0 else None
    if tracker:
        tracker.params(flatten(recipe.plain()))
        tracker.tags({"e4t.stage": "pretrain", "e4t.data_manifest": manifest.digest})
    last = _train(recipe, engine, cluster, run, checkpoints, progress, tracker, (backbone, conditioning), manifest)
    if tracker:
        tracker.close("FINISHED")
    cluster.accelerator.end_training()
    return last


def _domain_model(recipe: Recipe, backbone: Backbone, conditioning: Conditioning) -> DomainModel:
    encoder = DomainEncoder(DomainEncoderConfig.for_backbone(backbone, recipe.pretrain.hidden_width))
    return DomainModel(encoder, OffsetPredictor.for_unet(backbone.unet), backbone, conditioning)


def _resume(engine: DeepSpeedEngine, checkpoints: Checkpoints, cluster: Cluster, manifest: Manifest) -> Progress:
    """Load the newest complete checkpoint, rank 0's answer being everybody's."""
    answer = [str(checkpoints.newest() or "")]
    if cluster.world > 1:
        torch.distributed.broadcast_object_list(answer)
    if not answer[0]:
        return Progress()
    folder = Path(answer[0])
    state = json.loads((folder / "state.json").read_text())
    if state.pop("manifest_digest") != manifest.digest:
        raise RunError(f"{folder} was trained on another data set than {manifest.concept} as it is now; give another name to start anew")
    engine.load_checkpoint(folder, tag="engine")
    progress = Progress(**state)
    if cluster.rank == 0:
        log.info("resuming from %s at step %d", folder, progress.step)
    return progress


def _train(
    recipe: Recipe,
    engine: DeepSpeedEngine,
    cluster: Cluster,
    run: Run,
    checkpoints: Checkpoints,
    progress: Progress,
    tracker: Tracker | None,
    frozen: tuple[Backbone, Conditioning],
    manifest: Manifest,
) -> Path:
    config = recipe.pretrain
    backbone, conditioning = frozen
    stream = ShardStream(
        recipe.data.output,
        "train",
        global_batch=config.batch_size,
        rank=cluster.rank,
        world=cluster.world,
        seed=recipe.seed,
        samples_seen=progress.samples_seen,
        config=recipe.stream,
    )
    meter = Meter(config, progress)
    for batch in stream if progress.step < config.steps else ():
        losses = _step(engine, batch, recipe, progress, backbone, conditioning)
        progress.step += 1
        progress.samples_seen = batch.samples_seen
        meter.update(losses, cluster)
        done = progress.step >= config.steps
        if done or progress.step % config.log_every == 0:
            line = meter.read(progress, engine)
            run.log(**line)
            run.heartbeat(progress.step)
            if tracker:
                log.info(meter.text(line))
                tracker.metrics(progress.step, {key: value for key, value in line.items() if key != "step"})
        if done or progress.step % config.sample_every == 0:
            _look(recipe, engine, run, progress, tracker, backbone, conditioning)
            cluster.wait()
        if done or progress.step % config.checkpoint_every == 0:
            _save(engine, checkpoints, cluster, progress, manifest)
        if done:
            break
    newest = checkpoints.newest()
    if newest is None:
        raise RunError(f"{checkpoints.folder} holds no complete checkpoint after training")
    return newest


def _step(
    engine: DeepSpeedEngine, batch: Batch, recipe: Recipe, progress: Progress, backbone: Backbone, conditioning: Conditioning
) -> Tensor:
    """One optimizer step over this rank's slice; returns its mean losses (total, denoising, regulariser)."""
    config = recipe.pretrain
    for group, base in zip(engine.optimizer.param_groups, _learning_rates(config), strict=True):
        group["lr"] = base * _schedule(config, progress.step)
    seeds = [recipe.seed * 1_000_003 + index for index in batch.indices]
    shape = (backbone.unet.config.in_channels, *(2 * [batch.pixels.shape[-1] // backbone.pixels_per_latent]))
    draw = Draw.for_samples(seeds, shape, backbone.noise_schedule.config.num_train_timesteps)
    prompts = conditioning.tokenize([conditioning.prompt_for(c, u) for c, u in zip(batch.captions, draw.choice.tolist(), strict=True)])
    totals = torch.zeros(3)
    passes = len(batch.keys) // config.micro_batch_size
    for start in range(0, len(batch.keys), config.micro_batch_size):
        rows = slice(start, start + config.micro_batch_size)
        losses = engine(batch.pixels[rows].to(engine.device), prompts[rows], draw[rows], config.regulariser)
        if not torch.isfinite(losses.total):
            raise RunError(f"the loss is {float(losses.total)} at step {progress.step}, pictures {batch.keys[rows]}; lower pretrain.learning_rate")
        engine.backward(losses.total)
        engine.step()
        totals += torch.stack([losses.total, losses.denoising, losses.regulariser]).detach().float().cpu() / passes
    return totals


def _learning_rates(config: PretrainConfig) -> tuple[float, float]:
    return config.learning_rate, config.offsets_learning_rate or config.learning_rate


def _schedule(config: PretrainConfig, step: int) -> float:
    """Factor on the learning rate."""
    warm = min(1.0, (step + 1) / (config.warmup_steps + 1))
    return warm * (0.5 + 0.5 * math.cos(math.pi * step / config.steps)) if config.decay == "cosine" else warm


def _save(engine: DeepSpeedEngine, checkpoints: Checkpoints, cluster: Cluster, progress: Progress, manifest: Manifest) -> None:
    if cluster.rank == 0:
        checkpoints.begin(progress.step)
    cluster.wait()
    aside = checkpoints.aside(progress.step)
    engine.save_checkpoint(aside, tag="engine", exclude_frozen_parameters=True)
    save_trainable(engine, aside / "trainable", cluster.rank)
    cluster.wait()
    if cluster.rank == 0:
        state = vars(progress) | {"manifest_digest": manifest.digest}
        write_whole(aside / "state.json", json.dumps(state, indent=1) + "\n")
        log.info("checkpoint %s", checkpoints.commit(progress.step))
    cluster.wait()


def _look(
    recipe: Recipe,
    engine: DeepSpeedEngine,
    run: Run,
    progress: Progress,
    tracker: Tracker | None,
    backbone: Backbone,
    conditioning: Conditioning,
) -> None:
    """Validation loss and a grid of held-out pictures; rank 0 only, on randomness of its own."""
    if not tracker:
        return
    held_out = list(_first(ShardReader(recipe.data.output, "val"), recipe.pretrain.validate_samples))
    loss = validation_loss(engine.module, held_out, recipe, backbone, conditioning)
    path = run.folder / "samples" / f"step_{progress.step:08d}.png"
    training_grid(engine.module, held_out[:6], recipe, backbone, conditioning).save(path)
    log.info("step %d  validation loss %.4f  samples %s", progress.step, loss, path)
    run.log(step=progress.step, validation_loss=loss)
    tracker.metrics(progress.step, {"validation_loss": loss})
    tracker.file(path, "samples")


def _first(reader: ShardReader, count: int) -> Iterator[Sample]:
    """Pictures spread over the split."""
    samples = list(reader)
    return iter(samples[:: max(1, len(samples) // count)][:count])


@torch.no_grad()
def validation_loss(
    model: DomainModel, samples: list[Sample], recipe: Recipe, backbone: Backbone, conditioning: Conditioning
) -> float:
    """Mean denoising loss at fixed noise and timesteps, which leaves training's randomness alone."""
    pixels = torch.stack([sample.pixels for sample in samples]).float() / 127.5 - 1
    shape = (backbone.unet.config.in_channels, *(2 * [pixels.shape[-1] // backbone.pixels_per_latent]))
    draw = Draw.for_samples(range(len(samples)), shape, backbone.noise_schedule.config.num_train_timesteps)
    prompts = conditioning.tokenize([conditioning.prompt_for(s.caption, u) for s, u in zip(samples, draw.choice.tolist(), strict=True)])
    return float(model(pixels.to(backbone.device), prompts, draw, 0.0).denoising)


class Meter:
    """Mean losses since the last line, speed, and what is left."""

    def __init__(self, config: PretrainConfig, progress: Progress) -> None:
        self.config = config
        self.sums, self.count = torch.zeros(3), 0
        self.started, self.before = time.monotonic(), progress.seconds
        self.mark, self.mark_step = self.started, progress.step

    def update(self, losses: Tensor, cluster: Cluster) -> None:
        """Add a step's losses, averaged over the ranks."""
        mean = cluster.accelerator.reduce(losses.to(cluster.accelerator.device), "mean")
        self.sums += mean.cpu()
        self.count += 1

    def read(self, progress: Progress, engine: DeepSpeedEngine) -> dict[str, float]:
        """The line's values; starts the next."""
        now = time.monotonic()
        total, denoising, regulariser = (self.sums / self.count).tolist()
        rate = (progress.step - self.mark_step) * self.config.batch_size / (now - self.mark)
        progress.seconds = self.before + now - self.started
        norm = engine.get_global_grad_norm()
        self.sums, self.count, self.mark, self.mark_step = torch.zeros(3), 0, now, progress.step
        return {
            "step": progress.step,
            "loss": total,
            "denoising": denoising,
            "regulariser": regulariser,
            "grad_norm": float(norm) if norm is not None else 0.0,
            "images_per_second": rate,
            "learning_rate": engine.optimizer.param_groups[0]["lr"],
        }

    def text(self, line: dict[str, float]) -> str:
        """The line for people."""
        left = (self.config.steps - line["step"]) * self.config.batch_size / max(line["images_per_second"], 1e-9)
        return (
            f"step {line['step']:.0f}/{self.config.steps}  loss {line['loss']:.4f}  {line['images_per_second']:.1f} images/s"
            f"  ETA {int(left // 60)}:{int(left % 60):02d}"
        )
