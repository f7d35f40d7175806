"""Inference-time tuning: a few steps on one picture turn the domain's model into the person's."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import count

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F

from encoder.backbone import Backbone
from encoder.concept import Concept
from encoder.conditioning import Conditioning
from encoder.config import TuneConfig
from encoder.domain_encoder import DomainEncoder
from encoder.errors import ConfigError, ModelError
from encoder.features import Encoded, encode_pictures
from encoder.objective import Draw, Losses, domain_tuning_loss
from encoder.trained import Trained

SEEDS_APART = 1_000_003
"""Between the first samples of two tuning seeds."""


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """What is tuned on."""

    pixels: Tensor
    """(N, 3, H, W) in [-1, 1]."""
    captions: Sequence[str] | None = None
    """What of each picture is not the concept: ``a portrait of a smiling *s in a red shirt``; else the templates."""
    masks: Tensor | None = None
    """(N, 1, H, W) in [0, 1]: how much each pixel counts, such as a face's segmentation (E4T, arXiv 2302.12228)."""

    def __post_init__(self) -> None:
        if self.masks is not None and not self.masks.flatten(1).any(dim=1).all():
            raise ModelError("a mask covers nothing of its picture; give one that is white where the concept is")


def tune(
    backbone: Backbone,
    encoder: DomainEncoder,
    conditioning: Conditioning,
    pictures: Pictures,
    config: TuneConfig,
    *,
    release: str,
    stops: Sequence[int] | None = None,
    on_step: Callable[[int, Losses], None] | None = None,
) -> list[Concept]:
    """Tune on pictures; return the concept at each of ``stops``, by default after the last.

    The models are left as they were, after an interrupt, too. Raises ConfigError for a base held in float16.
    """
    if backbone.dtype == torch.float16:
        raise ConfigError("float16 loses small gradients; tune a base held in bfloat16 or float32")
    stops = [config.steps] if stops is None else sorted(stops)
    conditioning.null_states()  # those of the release: what is tuned does not touch them
    encoded = encode_pictures(backbone, pictures.pixels)
    concepts = []
    with ExitStack() as stack:
        trained = stack.enter_context(Trained(backbone, encoder, config))
        stack.enter_context(_in_host_memory(backbone.vae, backbone.clip))
        if config.gradient_checkpointing:
            stack.enter_context(_checkpointing(backbone.unet))
        steps = _steps(backbone, encoder, conditioning, pictures, encoded, trained, config)
        for step in range(stops[-1] + 1):
            if step in stops:
                settings = asdict(config) | {"steps": step, "pictures": len(pictures.pixels)}
                tokens = encoded.class_tokens.mean(0, keepdim=True)
                concepts.append(trained.concept(tokens, release, settings))
            if step < stops[-1]:
                losses = next(steps)
                if on_step:
                    on_step(step + 1, losses)
    return concepts


def _steps(
    backbone: Backbone,
    encoder: DomainEncoder,
    conditioning: Conditioning,
    pictures: Pictures,
    encoded: Encoded,
    trained: Trained,
    config: TuneConfig,
) -> Iterator[Losses]:
    """Endless optimizer steps, each giving its batch's losses."""
    mean, std = encoded.posterior
    picture = torch.arange(config.batch_size) % len(mean)
    masks = None if pictures.masks is None else F.interpolate(pictures.masks.to(mean), mean.shape[-2:], mode="area")
    prompts = [pictures.captions] if pictures.captions else [[t] * len(mean) for t in conditioning.config.templates]
    for first in count(config.seed * SEEDS_APART, config.batch_size):
        seeds = range(first, first + config.batch_size)
        draw = Draw.for_samples(seeds, mean.shape[1:], backbone.noise_schedule.config.num_train_timesteps)
        choice = (draw.choice * len(prompts)).long().tolist()
        tokens = conditioning.tokenize([prompts[c][p] for c, p in zip(choice, picture.tolist(), strict=True)])
        parts = []
        for start in range(0, config.batch_size, config.micro_batch_size):
            rows = slice(start, start + config.micro_batch_size)
            which, drawn = picture[rows], draw[rows]
            losses = domain_tuning_loss(
                backbone,
                encoder,
                conditioning,
                latents=mean[which] + std[which] * drawn.posterior.to(mean),
                class_tokens=encoded.class_tokens[which],
                prompts=tokens[rows],
                noise=drawn.noise.to(mean),
                timesteps=drawn.timesteps.to(mean.device),
                regulariser=config.regulariser,
                mask=None if masks is None else masks[which],
            )
            share = losses * (len(which) / config.batch_size)
            trained.learn(share.total, step=rows.stop >= config.batch_size)
            parts.append(share.detach())
        yield sum(parts[1:], start=parts[0])


@contextmanager
def _checkpointing(unet: UNet2DConditionModel) -> Iterator[None]:
    unet.enable_gradient_checkpointing()
    try:
        yield
    finally:
        unet.disable_gradient_checkpointing()


@contextmanager
def _in_host_memory(*modules: nn.Module) -> Iterator[None]:
    """Leave the device's memory to others meanwhile."""
    devices = [next(module.parameters()).device for module in modules]
    for module in modules:
        module.to("cpu")
    try:
        yield
    finally:
        for module, device in zip(modules, devices, strict=True):
            module.to(device)
