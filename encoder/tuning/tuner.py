"""Inference-time tuning: a few optimizer steps on one image adapt the domain's model to a concept."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from e4t_errors import ConfigError
from encoder.backbone.backbone import Backbone, Posterior
from encoder.backbone.text_encoders import TokenizedPrompts
from encoder.concepts.concept import Concept
from encoder.concepts.concept_tokens import ConceptToken, EncodedToken, LearnedToken, RareToken, expand_placeholder
from encoder.config import SEED_STRIDE, TuneConfig
from encoder.errors import ModelError
from encoder.model.conditioning import Conditioning
from encoder.model.features import EncodedImages
from encoder.model.losses import Losses, NoiseSample, diffusion_loss, e4t_loss
from encoder.model.registry import AnyDomainEncoder
from encoder.tuning.inputs import TuningImages
from encoder.tuning.prior import Prior
from encoder.tuning.trainable import TrainableParameters


class Tuner:
    """The tuning loop. Models are changed inside the ``with`` block and restored after it, also after an interrupt."""

    def __init__(
        self,
        backbone: Backbone,
        encoder: AnyDomainEncoder,
        conditioning: Conditioning,
        images: TuningImages,
        config: TuneConfig,
        *,
        init_concept: Concept | None = None,
        class_pixels: Tensor | None = None,
    ) -> None:
        """Encode the images with the VAE and CLIP. Raises ConfigError for a base model in float16.

        ``init_concept`` provides the initial embedding of a learned token. ``class_pixels`` (N, 3, H, W) in [-1, 1] are
        class images for prior preservation.
        """
        if backbone.dtype == torch.float16:
            raise ConfigError(
                "small gradients underflow in float16; load the base model in bfloat16 or float32 to tune"
            )
        self.backbone, self.encoder, self.conditioning, self.config = backbone, encoder, conditioning, config
        conditioning.unconditional_embeddings()  # cached before tuning changes the text encoder
        self.encoded = EncodedImages(backbone.posterior(images.pixels), encoder.image_features(backbone, images.pixels))
        mean = self.encoded.posterior.mean
        self._masks = images.latent_masks(mean)
        templates = [[template] * len(mean) for template in conditioning.config.templates]
        self._prompts = [images.captions] if images.captions else templates
        self._prior = Prior(backbone, conditioning, class_pixels, config) if class_pixels is not None else None
        self._seed = config.seed * SEED_STRIDE
        self.trainable = TrainableParameters(
            backbone, encoder, config, _initial_token_embedding(conditioning, init_concept)
        )

    def __enter__(self) -> "Tuner":
        with ExitStack() as stack:
            stack.enter_context(self.trainable)
            stack.enter_context(_encoders_offloaded(self.backbone))
            if self.config.gradient_checkpointing:
                stack.enter_context(_checkpointing(self.backbone.unet))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(
        self, release: str, checkpoint_steps: Sequence[int], on_step: Callable[[int, Losses], None] | None = None
    ) -> list[Concept]:
        """Step until the last of ``checkpoint_steps``; return the concept at each, in ascending order."""
        concepts = []
        for step in range(max(checkpoint_steps) + 1):
            if step in checkpoint_steps:
                concepts.append(self.concept(release, step))
            if step < max(checkpoint_steps):
                losses = self.step()
                if on_step:
                    on_step(step + 1, losses)
        return concepts

    def step(self) -> Losses:
        """Do one optimizer step, with separate noise, timestep and prompt for each copy of an image in the batch."""
        shape = self.encoded.posterior.mean.shape[1:]
        noise_sample = NoiseSample.from_seeds(
            self._seeds, shape, self.backbone.noise_scheduler.config.num_train_timesteps
        )
        prompt_indices = (noise_sample.prompt_choice * len(self._prompts)).long().tolist()
        pairs = zip(prompt_indices, self._image_index.tolist(), strict=True)
        prompts = [self._prompts[prompt_index][image_index] for prompt_index, image_index in pairs]
        token = RareToken(self.config.rare_token) if self.config.token_type == "rare_token" else None
        expanded_prompts = expand_placeholder(prompts, token, self.conditioning.config.domain_word)
        losses = self.micro_batched_step(noise_sample, self.conditioning.tokenize(expanded_prompts))
        self._seed = self._seeds.stop
        return losses

    @property
    def _seeds(self) -> range:
        """Seeds of the current step's noise samples."""
        return range(self._seed, self._seed + self.config.batch_size)

    @property
    def _image_index(self) -> Tensor:
        """Index (B,) of each sample's image; images take turns, across steps too."""
        return torch.tensor(self._seeds) % len(self.encoded.class_tokens)

    def micro_batched_step(self, noise_sample: NoiseSample, prompts: TokenizedPrompts) -> Losses:
        """Do one optimizer step on a batch in micro-batches; return the losses of the batch."""
        sums: list[Losses] = []
        for start in range(0, self.config.batch_size, self.config.micro_batch_size):
            rows = slice(start, start + self.config.micro_batch_size)
            losses = self.compute_losses(rows, noise_sample, prompts)
            if self._prior:
                losses = losses.add_penalty(
                    self.config.prior_loss_weight * self._prior.loss(len(self._image_index[rows]))
                )
            scaled = losses * (len(self._image_index[rows]) / self.config.batch_size)
            self.trainable.accumulate(scaled.total, step=rows.stop >= self.config.batch_size)
            sums.append(sums[-1] + scaled.detach() if sums else scaled.detach())
        return sums[-1]

    def compute_losses(self, rows: slice, noise_sample: NoiseSample, prompts: TokenizedPrompts) -> Losses:
        """Compute the losses of the given rows of a batch."""
        image_index, noise_sample, prompts = self._image_index[rows], noise_sample[rows], prompts[rows]
        loss_inputs = noise_sample.loss_inputs(Posterior(*(moment[image_index] for moment in self.encoded.posterior)))
        mask = None if self._masks is None else self._masks[image_index]
        if self.config.token_type == "encoder":
            return e4t_loss(
                self.backbone,
                self.encoder,
                self.conditioning,
                class_tokens=self.encoded.class_tokens[image_index],
                prompts=prompts,
                regularization_weight=self.config.regularization_weight,
                mask=mask,
                **loss_inputs,
            )
        placeholder_embeddings = (
            self.trainable.token_embedding.expand(len(image_index), -1)
            if self.config.token_type == "embedding"
            else None
        )
        loss = diffusion_loss(
            self.backbone, self.conditioning.encode_prompts(prompts, placeholder_embeddings), mask=mask, **loss_inputs
        )
        return Losses(loss, loss, torch.zeros_like(loss))

    def concept(self, release: str, step: int) -> Concept:
        """Return the current state as a concept of ``release`` that was tuned for ``step`` steps."""
        settings = asdict(self.config) | {"steps": step, "images": len(self.encoded.class_tokens)}
        return self.trainable.concept(self.token(), release, settings)

    def token(self) -> ConceptToken:
        """Return the token that currently stands for the concept in prompts."""
        if self.config.token_type == "rare_token":
            return RareToken(self.config.rare_token)
        if self.config.token_type == "embedding":
            return LearnedToken(
                self.trainable.token_embedding.detach().cpu().clone(), tuple(self.backbone.text_encoders.widths)
            )
        return EncodedToken(self.encoded.class_tokens.mean(0, keepdim=True).float().cpu())


def _initial_token_embedding(conditioning: Conditioning, init_concept: Concept | None) -> Tensor:
    """Return the initial embedding of a learned token: the domain word's, or that of another concept."""
    if init_concept is None:
        return conditioning.domain_embedding()
    if not isinstance(init_concept.token, LearnedToken) or init_concept.weight_deltas:
        raise ModelError("init_concept must be a learned token without weight deltas, as Textual Inversion makes one")
    return init_concept.token.embedding.to(conditioning.text_encoders.device)


@contextmanager
def _checkpointing(unet: UNet2DConditionModel) -> Iterator[None]:
    """Enable gradient checkpointing inside the block."""
    unet.enable_gradient_checkpointing()
    try:
        yield
    finally:
        unet.disable_gradient_checkpointing()


@contextmanager
def _encoders_offloaded(backbone: Backbone) -> Iterator[None]:
    """Move the VAE and CLIP to the CPU: the images are encoded, and training needs the memory of the device."""
    backbone.move_encoders("cpu")
    try:
        yield
    finally:
        backbone.move_encoders(backbone.device)
