"""Prior preservation: the base goes on to paint the domain word as before (DreamBooth, arXiv 2208.12242)."""

import torch
from torch import Tensor

from encoder.backbone.backbone import Backbone, Posterior
from encoder.config import PLACEHOLDER, SEEDS_APART, TuneConfig
from encoder.model.conditioning import Conditioning
from encoder.model.losses import Draw, diffusion_loss

SEEDS_BEYOND = SEEDS_APART // 2
"""From the samples of a tuning seed to those of its prior."""


class Prior:
    """The base's own pictures of the domain word, and how well they are still denoised under it."""

    def __init__(self, backbone: Backbone, conditioning: Conditioning, pixels: Tensor, config: TuneConfig) -> None:
        """Look at pictures (N, 3, H, W) in [-1, 1] once."""
        posteriors = [backbone.posterior(some) for some in pixels.split(config.micro_batch_size)]
        self._posterior = Posterior(*(torch.cat(moment) for moment in zip(*posteriors, strict=True)))
        self._backbone, self._conditioning = backbone, conditioning
        self._prompt = conditioning.tokenize([domain_prompt(conditioning)])
        self._seed = config.seed * SEEDS_APART + SEEDS_BEYOND

    def loss(self, count: int) -> Tensor:
        """Of the next ``count`` samples, a scalar."""
        seeds = range(self._seed, self._seed + count)
        self._seed = seeds.stop
        pictures, *shape = self._posterior.mean.shape
        draw = Draw.for_samples(seeds, shape, self._backbone.noise_schedule.config.num_train_timesteps)
        picture = torch.tensor(seeds) % pictures
        text = self._conditioning.states(self._prompt).expand(count)  # one prompt: the text encoder runs once
        return diffusion_loss(
            self._backbone, text, **draw.noised(Posterior(*(each[picture] for each in self._posterior)))
        )


def domain_prompt(conditioning: Conditioning) -> str:
    """The prompt of any picture of the domain: ``a photo of person``."""
    return conditioning.config.templates[0].replace(PLACEHOLDER, conditioning.config.domain_word)
