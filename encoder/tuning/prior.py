"""Prior preservation: tuning must not change what the domain word means (DreamBooth, arXiv 2208.12242)."""

import torch
from torch import Tensor

from encoder.backbone.backbone import Backbone, Posterior
from encoder.config import SEED_STRIDE, TuneConfig
from encoder.model.conditioning import Conditioning
from encoder.model.losses import NoiseSample, diffusion_loss
from encoder.placeholder import replace_placeholder

PRIOR_SEED_OFFSET = SEED_STRIDE // 2
"""Offset between the noise seeds of the tuning images and those of the class images."""


class Prior:
    """Diffusion loss on class images: images of the domain that do not show the concept."""

    def __init__(self, backbone: Backbone, conditioning: Conditioning, pixels: Tensor, config: TuneConfig) -> None:
        """Encode class images (N, 3, H, W) in [-1, 1] with the VAE."""
        posteriors = [backbone.posterior(chunk) for chunk in pixels.split(config.micro_batch_size)]
        self._posterior = Posterior(*(torch.cat(moment) for moment in zip(*posteriors, strict=True)))
        self._backbone, self._conditioning = backbone, conditioning
        self._prompt = conditioning.tokenize([domain_prompt(conditioning)])
        self._seed = config.seed * SEED_STRIDE + PRIOR_SEED_OFFSET

    def loss(self, count: int) -> Tensor:
        """Return the mean loss of the next ``count`` noise samples, a scalar."""
        seeds = range(self._seed, self._seed + count)
        self._seed = seeds.stop
        num_images, *shape = self._posterior.mean.shape
        noise_sample = NoiseSample.from_seeds(seeds, shape, self._backbone.noise_scheduler.config.num_train_timesteps)
        image_index = torch.tensor(seeds) % num_images
        # all samples share one prompt, so the text encoder runs once
        prompt_embeddings = self._conditioning.encode_prompts(self._prompt).expand(count)
        return diffusion_loss(
            self._backbone,
            prompt_embeddings,
            **noise_sample.loss_inputs(Posterior(*(moment[image_index] for moment in self._posterior))),
        )


def domain_prompt(conditioning: Conditioning) -> str:
    """Return the first template with the domain word in place of the concept: ``a photo of person``."""
    return replace_placeholder(conditioning.config.templates[0], conditioning.config.domain_word)
