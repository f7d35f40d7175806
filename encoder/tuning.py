"""Inference-time tuning: a few steps on one picture turn the domain's model into the person's."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from encoder.backbone import Backbone
from encoder.concept import Concept, add_difference, difference, restore
from encoder.conditioning import Conditioning
from encoder.domain_encoder import DomainEncoder
from encoder.errors import ConfigError
from encoder.features import class_tokens
from encoder.objective import Draw, Losses, domain_tuning_loss


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """Inference-time tuning."""

    steps: int = 15
    """Optimizer steps; the method's range is 5-15, 0 gives the encoder's own guess."""
    batch_size: int = 16
    """Copies of the picture a step, each with its own noise and timestep."""
    learning_rate: float = 1.6e-5
    regulariser: float = 0.1
    """lambda on ||v||^2."""
    train: Literal["unet", "attention"] = "unet"
    """What is tuned beside the encoder's head: the whole UNet, or its attention layers."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ConfigError(f"tune.steps is {self.steps}; give 0 or more (5-15 is the method's range)")
        if self.batch_size < 1 or self.learning_rate <= 0 or self.regulariser < 0:
            raise ConfigError(
                f"tune.batch_size {self.batch_size}, learning_rate {self.learning_rate}, "
                f"regulariser {self.regulariser}: "
                "give at least 1, more than 0 and at least 0"
            )


def tune(
    backbone: Backbone,
    encoder: DomainEncoder,
    conditioning: Conditioning,
    pixels: Tensor,
    config: TuneConfig,
    *,
    release: str,
    captions: list[str] | None = None,
    on_step: Callable[[int, Losses], None] | None = None,
) -> Concept:
    """Tune on pictures (N, 3, H, W) in [-1, 1]; the models are left as they were, after an interrupt, too.

    ``captions``, if given, say of each picture what is not the concept (``a portrait of a smiling *s in a red shirt``);
    otherwise the neutral templates are used.
    """
    tokens = class_tokens(backbone, pixels)
    trained = {"unet": _unet_parameters(backbone.unet, config.train), "encoder": dict(encoder.named_parameters())}
    before = {
        part: {name: p.detach().clone() for name, p in parameters.items()} for part, parameters in trained.items()
    }
    parameters = [p for part in trained.values() for p in part.values()]
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        _optimise(backbone, encoder, conditioning, pixels, tokens, parameters, config, captions, on_step)
        changes = {
            part: difference(module, before[part]) for part, module in (("unet", backbone.unet), ("encoder", encoder))
        }
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)
            parameter.grad = None
        restore(backbone.unet, before["unet"])
        restore(encoder, before["encoder"])
    settings = asdict(config) | {"pictures": len(pixels)}
    return Concept(
        **changes, class_tokens=tokens.mean(0, keepdim=True).float().cpu(), release=release, settings=settings
    )


def _unet_parameters(unet: nn.Module, train: str) -> dict[str, nn.Parameter]:
    return {name: p for name, p in unet.named_parameters() if train == "unet" or ".attn" in name}


def _optimise(
    backbone: Backbone,
    encoder: DomainEncoder,
    conditioning: Conditioning,
    pixels: Tensor,
    tokens: Tensor,
    parameters: list[nn.Parameter],
    config: TuneConfig,
    captions: list[str] | None,
    on_step: Callable[[int, Losses], None] | None,
) -> None:
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate)
    picture = torch.arange(config.batch_size) % len(pixels)
    posterior = backbone.posterior(pixels)
    prompts = [captions] if captions else [[template] * len(pixels) for template in conditioning.config.templates]
    for step in range(config.steps):
        seeds = [config.seed * 1_000_003 + step * config.batch_size + row for row in range(config.batch_size)]
        draw = Draw.for_samples(seeds, posterior.mean.shape[1:], backbone.noise_schedule.config.num_train_timesteps)
        latents = posterior.mean[picture] + posterior.std[picture] * draw.posterior.to(posterior.mean)
        choice = (draw.choice * len(prompts)).long().tolist()
        losses = domain_tuning_loss(
            backbone,
            encoder,
            conditioning,
            latents=latents,
            class_tokens=tokens[picture],
            prompts=conditioning.tokenize([prompts[c][p] for c, p in zip(choice, picture.tolist(), strict=True)]),
            noise=draw.noise.to(latents),
            timesteps=draw.timesteps.to(latents.device),
            regulariser=config.regulariser,
        )
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        if on_step:
            on_step(step + 1, losses)


class LoadedConcept:
    """A concept in a model: the former weights are kept, so that unloading leaves the base bit-identical."""

    def __init__(self, concept: Concept, unet: nn.Module, encoder: nn.Module) -> None:
        self.concept, self._modules = concept, (unet, encoder)
        self._before = (add_difference(unet, concept.unet), add_difference(encoder, concept.encoder))

    def unload(self) -> None:
        """Put the former weights back."""
        for module, before in zip(self._modules, self._before, strict=True):
            restore(module, before)
