"""Inference-time tuning: a few steps on one picture turn the domain's model into the person's."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.nn import functional as F

from encoder.backbone.backbone import Backbone, Posterior
from encoder.backbone.text_encoders import Prompts
from encoder.concepts.concept import Concept
from encoder.concepts.concept_tokens import Identifier, LearnedWord, PictureWord, Word, spoken
from encoder.config import SEEDS_APART, TuneConfig
from encoder.errors import ConfigError, ModelError
from encoder.model.conditioning import Conditioning
from encoder.model.features import Encoded
from encoder.model.losses import Draw, Losses, diffusion_loss, domain_tuning_loss
from encoder.model.registry import Encoder
from encoder.tuning.prior import Prior
from encoder.tuning.trainable import Trained


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

    def latent_masks(self, latents: Tensor) -> Tensor | None:
        """The masks as large as these latents."""
        return None if self.masks is None else F.interpolate(self.masks.to(latents), latents.shape[-2:], mode="area")


def tune(
    backbone: Backbone,
    encoder: Encoder,
    conditioning: Conditioning,
    pictures: Pictures,
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
    with Tuning(backbone, encoder, conditioning, pictures, config, start=start, prior=prior) as tuning:
        return tuning.run(release, [config.steps] if stops is None else stops, on_step)


class Tuning:
    """Tuning under way: models are being changed inside the ``with`` block, and are as they were after it."""

    def __init__(
        self,
        backbone: Backbone,
        encoder: Encoder,
        conditioning: Conditioning,
        pictures: Pictures,
        config: TuneConfig,
        *,
        start: Concept | None = None,
        prior: Tensor | None = None,
    ) -> None:
        """Look at the pictures once. Raises ConfigError for a base held in float16."""
        if backbone.dtype == torch.float16:
            raise ConfigError("float16 loses small gradients; tune a base held in bfloat16 or float32")
        self.backbone, self.encoder, self.conditioning, self.config = backbone, encoder, conditioning, config
        conditioning.null_states()  # those of the release: what is tuned does not touch them
        self.encoded = Encoded(backbone.posterior(pictures.pixels), encoder.look(backbone, pictures.pixels))
        mean = self.encoded.posterior.mean
        self._masks = pictures.latent_masks(mean)
        templates = [[template] * len(mean) for template in conditioning.config.templates]
        self._prompts = [pictures.captions] if pictures.captions else templates
        self._prior = Prior(backbone, conditioning, prior, config) if prior is not None else None
        self._seed = config.seed * SEEDS_APART
        self.trained = Trained(backbone, encoder, config, _first_embedding(conditioning, start))

    def __enter__(self) -> "Tuning":
        with ExitStack() as stack:
            stack.enter_context(self.trained)
            stack.enter_context(_without_towers(self.backbone))
            if self.config.gradient_checkpointing:
                stack.enter_context(_checkpointing(self.backbone.unet))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(
        self, release: str, stops: Sequence[int], on_step: Callable[[int, Losses], None] | None = None
    ) -> list[Concept]:
        """Step until the last of ``stops``; return the concept at each."""
        concepts = []
        for step in range(max(stops) + 1):
            if step in stops:
                concepts.append(self.concept(release, step))
            if step < max(stops):
                losses = self.step()
                if on_step:
                    on_step(step + 1, losses)
        return concepts

    def step(self) -> Losses:
        """An optimizer step, each copy of a picture with noise, timestep and prompt of its own."""
        shape = self.encoded.posterior.mean.shape[1:]
        draw = Draw.for_samples(self._seeds, shape, self.backbone.noise_schedule.config.num_train_timesteps)
        choice = (draw.choice * len(self._prompts)).long().tolist()
        pairs = zip(choice, self._picture.tolist(), strict=True)
        prompts = [self._prompts[c][picture] for c, picture in pairs]
        word = Identifier(self.config.identifier) if self.config.word == "identifier" else None
        words = spoken(prompts, word, self.conditioning.config.domain_word)
        losses = self.learn(draw, self.conditioning.tokenize(words))
        self._seed = self._seeds.stop
        return losses

    @property
    def _seeds(self) -> range:
        """Of the step's samples."""
        return range(self._seed, self._seed + self.config.batch_size)

    @property
    def _picture(self) -> Tensor:
        """(B,) which picture each sample is of: in turn, from step to step."""
        return torch.tensor(self._seeds) % len(self.encoded.class_tokens)

    def learn(self, draw: Draw, prompts: Prompts) -> Losses:
        """Step with what was drawn, in micro-batches; gives the losses of the batch."""
        sums: list[Losses] = []
        for start in range(0, self.config.batch_size, self.config.micro_batch_size):
            rows = slice(start, start + self.config.micro_batch_size)
            losses = self.losses(rows, draw, prompts)
            if self._prior:
                losses = losses.with_penalty(self.config.prior_weight * self._prior.loss(len(self._picture[rows])))
            share = losses * (len(self._picture[rows]) / self.config.batch_size)
            self.trained.learn(share.total, step=rows.stop >= self.config.batch_size)
            sums.append(sums[-1] + share.detach() if sums else share.detach())
        return sums[-1]

    def losses(self, rows: slice, draw: Draw, prompts: Prompts) -> Losses:
        """Of some rows of the batch."""
        picture, draw, prompts = self._picture[rows], draw[rows], prompts[rows]
        noised = draw.noised(Posterior(*(moment[picture] for moment in self.encoded.posterior)))
        mask = None if self._masks is None else self._masks[picture]
        if self.config.word == "encoder":
            return domain_tuning_loss(
                self.backbone,
                self.encoder,
                self.conditioning,
                class_tokens=self.encoded.class_tokens[picture],
                prompts=prompts,
                regulariser=self.config.regulariser,
                mask=mask,
                **noised,
            )
        words = self.trained.embedding.expand(len(picture), -1) if self.config.word == "embedding" else None
        loss = diffusion_loss(self.backbone, self.conditioning.states(prompts, words), mask=mask, **noised)
        return Losses(loss, loss, torch.zeros_like(loss))

    def concept(self, release: str, step: int) -> Concept:
        """What has been learned so far."""
        settings = asdict(self.config) | {"steps": step, "pictures": len(self.encoded.class_tokens)}
        return self.trained.concept(self.word(), release, settings)

    def word(self) -> Word:
        """What stands for it in prompts by now."""
        if self.config.word == "identifier":
            return Identifier(self.config.identifier)
        if self.config.word == "embedding":
            return LearnedWord(self.trained.embedding.detach().cpu().clone(), tuple(self.backbone.text.widths))
        return PictureWord(self.encoded.class_tokens.mean(0, keepdim=True).float().cpu())


def _first_embedding(conditioning: Conditioning, start: Concept | None) -> Tensor:
    """Where a learned word starts: the domain word's embedding, or another concept's learned word."""
    if start is None:
        return conditioning.domain_embedding()
    if not isinstance(start.word, LearnedWord) or start.changes:
        raise ModelError("tuning can start from a learned word only, as Textual Inversion leaves it")
    return start.word.embedding.to(conditioning.text.device)


@contextmanager
def _checkpointing(unet: UNet2DConditionModel) -> Iterator[None]:
    unet.enable_gradient_checkpointing()
    try:
        yield
    finally:
        unet.disable_gradient_checkpointing()


@contextmanager
def _without_towers(backbone: Backbone) -> Iterator[None]:
    """Autoencoder and CLIP have looked: they leave the device's memory to others."""
    backbone.place_towers("cpu")
    try:
        yield
    finally:
        backbone.place_towers(backbone.device)
