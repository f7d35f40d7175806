"""Prior preservation: the base goes on to paint the domain word as before (DreamBooth, arXiv 2208.12242)."""

import torch
from torch import Tensor

from encoder.backbone.backbone import Backbone, Posterior
from encoder.config import PLACEHOLDER, SEED_STRIDE, TuneConfig
from encoder.model.conditioning import Conditioning
from encoder.model.losses import NoiseSample, diffusion_loss

PRIOR_SEED_OFFSET = SEED_STRIDE // 2
"""From the samples of a tuning seed to those of its prior."""


class Prior:
    """The base's own pictures of the domain word, and how well they are still denoised under it."""

    def __init__(self, backbone: Backbone, conditioning: Conditioning, pixels: Tensor, config: TuneConfig) -> None:
        """Look at pictures (N, 3, H, W) in [-1, 1] once."""
        posteriors = [backbone.posterior(some) for some in pixels.split(config.micro_batch_size)]
        self._posterior = Posterior(*(torch.cat(moment) for moment in zip(*posteriors, strict=True)))
        self._backbone, self._conditioning = backbone, conditioning
        self._prompt = conditioning.tokenize([domain_prompt(conditioning)])
        self._seed = config.seed * SEED_STRIDE + PRIOR_SEED_OFFSET

    def loss(self, count: int) -> Tensor:
        """Of the next ``count`` samples, a scalar."""
        seeds = range(self._seed, self._seed + count)
        self._seed = seeds.stop
        num_images, *shape = self._posterior.mean.shape
        noise_sample = NoiseSample.from_seeds(seeds, shape, self._backbone.noise_scheduler.config.num_train_timesteps)
        image_index = torch.tensor(seeds) % num_images
        prompt_embeddings = self._conditioning.encode_prompts(self._prompt).expand(
            count
        )  # one prompt: the text encoder runs once
        return diffusion_loss(
            self._backbone,
            prompt_embeddings,
            **noise_sample.loss_inputs(Posterior(*(each[image_index] for each in self._posterior))),
        )


def domain_prompt(conditioning: Conditioning) -> str:
    """The prompt of any picture of the domain: ``a photo of person``."""
    return conditioning.config.templates[0].replace(PLACEHOLDER, conditioning.config.domain_word)
