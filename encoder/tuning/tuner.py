"""Inference-time tuning: a few steps on one picture turn the domain's model into the person's."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.nn import functional as F

from e4t import ConfigError
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
from encoder.tuning.prior import Prior
from encoder.tuning.trainable import TrainableParameters


@dataclass(frozen=True, kw_only=True)
class TuningImages:
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

    def latent_masks(self, latents: Tensor) -> Tensor | None:
        """The masks as large as these latents."""
        return None if self.masks is None else F.interpolate(self.masks.to(latents), latents.shape[-2:], mode="area")


def tune(
    backbone: Backbone,
    encoder: AnyDomainEncoder,
    conditioning: Conditioning,
    pictures: TuningImages,
    config: TuneConfig,
    *,
    release: str,
    start: Concept | None = None,
    prior: Tensor | None = None,
    stops: Sequence[int] | None = None,
    on_step: Callable[[int, Losses], None] | None = None,
) -> list[Concept]:
    """Tune on pictures; return the concept at each of ``stops``, by default after the last.

    ``start`` is a concept whose learned word is taken up; ``prior`` (N, 3, H, W) in [-1, 1] what the base makes of the
    domain word, to be kept.
    The models are left as they were, after an interrupt, too. Raises ConfigError for a base held in float16.
    """
    with Tuner(backbone, encoder, conditioning, pictures, config, init_concept=start, class_pixels=prior) as tuning:
        return tuning.run(release, [config.steps] if stops is None else stops, on_step)


class Tuner:
    """Tuning under way: models are being changed inside the ``with`` block, and are as they were after it."""

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
        """Look at the pictures once. Raises ConfigError for a base held in float16."""
        if backbone.dtype == torch.float16:
            raise ConfigError("float16 loses small gradients; tune a base held in bfloat16 or float32")
        self.backbone, self.encoder, self.conditioning, self.config = backbone, encoder, conditioning, config
        conditioning.unconditional_embeddings()  # those of the release: what is tuned does not touch them
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
        """Step until the last of ``stops``; return the concept at each."""
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
        """An optimizer step, each copy of a picture with noise, timestep and prompt of its own."""
        shape = self.encoded.posterior.mean.shape[1:]
        noise_sample = NoiseSample.from_seeds(
            self._seeds, shape, self.backbone.noise_scheduler.config.num_train_timesteps
        )
        prompt_indices = (noise_sample.prompt_choice * len(self._prompts)).long().tolist()
        pairs = zip(prompt_indices, self._image_index.tolist(), strict=True)
        prompts = [self._prompts[c][image_index] for c, image_index in pairs]
        token = RareToken(self.config.rare_token) if self.config.token_type == "rare_token" else None
        expanded_prompts = expand_placeholder(prompts, token, self.conditioning.config.domain_word)
        losses = self.micro_batched_step(noise_sample, self.conditioning.tokenize(expanded_prompts))
        self._seed = self._seeds.stop
        return losses

    @property
    def _seeds(self) -> range:
        """Of the step's samples."""
        return range(self._seed, self._seed + self.config.batch_size)

    @property
    def _image_index(self) -> Tensor:
        """(B,) which picture each sample is of: in turn, from step to step."""
        return torch.tensor(self._seeds) % len(self.encoded.class_tokens)

    def micro_batched_step(self, noise_sample: NoiseSample, prompts: TokenizedPrompts) -> Losses:
        """Step with what was drawn, in micro-batches; gives the losses of the batch."""
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
        """Of some rows of the batch."""
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
        """What has been learned so far."""
        settings = asdict(self.config) | {"steps": step, "pictures": len(self.encoded.class_tokens)}
        return self.trainable.concept(self.token(), release, settings)

    def token(self) -> ConceptToken:
        """What stands for it in prompts by now."""
        if self.config.token_type == "rare_token":
            return RareToken(self.config.rare_token)
        if self.config.token_type == "embedding":
            return LearnedToken(
                self.trainable.token_embedding.detach().cpu().clone(), tuple(self.backbone.text_encoders.widths)
            )
        return EncodedToken(self.encoded.class_tokens.mean(0, keepdim=True).float().cpu())


def _initial_token_embedding(conditioning: Conditioning, init_concept: Concept | None) -> Tensor:
    """Where a learned word starts: the domain word's embedding, or another concept's learned word."""
    if init_concept is None:
        return conditioning.domain_embedding()
    if not isinstance(init_concept.token, LearnedToken) or init_concept.weight_deltas:
        raise ModelError("tuning can start from a learned word only, as Textual Inversion leaves it")
    return init_concept.token.embedding.to(conditioning.text_encoders.device)


@contextmanager
def _checkpointing(unet: UNet2DConditionModel) -> Iterator[None]:
    unet.enable_gradient_checkpointing()
    try:
        yield
    finally:
        unet.disable_gradient_checkpointing()


@contextmanager
def _encoders_offloaded(backbone: Backbone) -> Iterator[None]:
    """Autoencoder and CLIP have looked: they leave the device's memory to others."""
    backbone.move_encoders("cpu")
    try:
        yield
    finally:
        backbone.move_encoders(backbone.device)
