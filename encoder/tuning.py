"""Inference-time tuning: a few steps on one picture turn the domain's model into the person's."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any, Literal

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
    stops: Sequence[int] | None = None,
    on_step: Callable[[int, Losses], None] | None = None,
) -> list[Concept]:
    """Tune on pictures (N, 3, H, W) in [-1, 1]; return the concept at each of ``stops``, by default after the last.

    The models are left as they were, after an interrupt, too. ``captions``, if given, say of each picture what is not
    the concept (``a portrait of a smiling *s in a red shirt``); otherwise the neutral templates are used.
    """
    stops = [config.steps] if stops is None else sorted(stops)
    tokens = class_tokens(backbone, pixels)
    prompts = [captions] if captions else [[template] * len(pixels) for template in conditioning.config.templates]
    concepts = []
    with Trained(backbone.unet, encoder, config.train) as trained:
        steps = _steps(backbone, encoder, conditioning, pixels, tokens, prompts, trained.parameters, config)
        for step in range(stops[-1] + 1):
            if step in stops:
                settings = asdict(config) | {"steps": step, "pictures": len(pixels)}
                concepts.append(trained.concept(tokens.mean(0, keepdim=True), release, settings))
            if step < stops[-1]:
                losses = next(steps)
                if on_step:
                    on_step(step + 1, losses)
    return concepts


class Trained:
    """The parameters under tuning: they learn inside the ``with`` block and are what they were before after it."""

    def __init__(self, unet: nn.Module, encoder: nn.Module, train: str) -> None:
        self.modules = {"unet": unet, "encoder": encoder}
        chosen = {
            "unet": {name: p for name, p in unet.named_parameters() if train == "unet" or ".attn" in name},
            "encoder": dict(encoder.named_parameters()),
        }
        self.parameters = [parameter for part in chosen.values() for parameter in part.values()]
        self.before = {part: {name: p.detach().clone() for name, p in named.items()} for part, named in chosen.items()}

    def __enter__(self) -> "Trained":
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        return self

    def __exit__(self, *_: object) -> None:
        for parameter in self.parameters:
            parameter.requires_grad_(False)
            parameter.grad = None
        for part, module in self.modules.items():
            restore(module, self.before[part])

    def concept(self, class_tokens: Tensor, release: str, settings: dict[str, Any]) -> Concept:
        """What has been learned so far."""
        changes = {part: difference(module, self.before[part]) for part, module in self.modules.items()}
        return Concept(**changes, class_tokens=class_tokens.float().cpu(), release=release, settings=settings)


def _steps(
    backbone: Backbone,
    encoder: DomainEncoder,
    conditioning: Conditioning,
    pixels: Tensor,
    tokens: Tensor,
    prompts: list[list[str]],
    parameters: list[nn.Parameter],
    config: TuneConfig,
) -> Iterator[Losses]:
    """Endless optimizer steps; ``prompts`` is a choice of prompt lists, each with one for every picture."""
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate)
    picture = torch.arange(config.batch_size) % len(pixels)
    posterior = backbone.posterior(pixels)
    for first in count(config.seed * 1_000_003, config.batch_size):
        seeds = range(first, first + config.batch_size)
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
        yield losses


class LoadedConcept:
    """A concept in a model: the former weights are kept, so that unloading leaves the base bit-identical."""

    def __init__(self, concept: Concept, unet: nn.Module, encoder: nn.Module) -> None:
        self.concept, self._modules = concept, (unet, encoder)
        self._before = (add_difference(unet, concept.unet), add_difference(encoder, concept.encoder))

    def unload(self) -> None:
        """Put the former weights back."""
        for module, before in zip(self._modules, self._before, strict=True):
            restore(module, before)
