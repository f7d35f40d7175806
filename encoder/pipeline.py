"""Tune on a picture, then generate: the pipeline that users hold."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor

from encoder.backbone.backbone import Backbone
from encoder.concepts.concept import Concept, LoadedConcept
from encoder.concepts.concept_tokens import Word, spoken
from encoder.config import PLACEHOLDER, BackboneConfig, ConditioningConfig, Precision, SampleConfig, TuneConfig
from encoder.errors import ModelError
from encoder.images import stacked, to_images, to_pixels
from encoder.model.conditioning import Conditioning
from encoder.model.domain_encoder import DomainEncoder, DomainEncoderConfig
from encoder.model.guidance import Branches, guided
from encoder.model.losses import Losses
from encoder.model.registry import Encoder, encoder_of
from encoder.model.weight_offsets import fold, load_offsets
from encoder.releases.download import release_folder
from encoder.releases.release import Release
from encoder.tuning.prior import domain_prompt
from encoder.tuning.trainable import parts_of
from encoder.tuning.tuner import Pictures, Tuning

BARE = "bare "
"""What the identity of such a base begins with."""
Mask = Image.Image | Callable[[Image.Image], Image.Image]
"""White where the concept is; or a function that makes such a picture of a picture, as a segmentation network does."""


class E4TPipeline(DiffusionPipeline):  # type: ignore[misc]
    """A domain encoder over its base model, its offsets folded in; one concept at a time can be loaded."""

    def __init__(
        self,
        backbone: Backbone,
        encoder: Encoder,
        conditioning: Conditioning,
        *,
        release: str = "unreleased",
        resolution: int | None = None,
        tune_config: TuneConfig | None = None,
        sample_config: SampleConfig | None = None,
    ) -> None:
        """``resolution``, in pixels, is what the encoder was trained at; the base's own unless given."""
        super().__init__()
        self.register_modules(
            vae=backbone.vae,
            text=backbone.text,
            unet=backbone.unet,
            scheduler=backbone.sampler,
            clip=backbone.clip,
            domain_encoder=encoder,
        )
        self.backbone, self.conditioning, self.release = backbone, conditioning, release
        self.resolution = resolution or backbone.resolution
        self.tune_config, self.sample_config = tune_config or TuneConfig(), sample_config or SampleConfig()
        self._loaded: LoadedConcept | None = None
        self._tuning: Tuning | None = None

    @classmethod
    def from_pretrained(
        cls,
        release: str | Path,
        *,
        base: str | None = None,
        device: str | None = None,
        dtype: Precision | None = None,
        bare: bool = False,
    ) -> "E4TPipeline":
        """Open a release, a folder or on the hub (owner/name, owner/name@v1.0.0).

        ``base`` overrides where its base model lies, ``dtype`` how it is held. ``device`` is a GPU if there is one;
        ``bare`` leaves out what was pre-trained, for other methods. Raises ModelError for a release that is broken, not
        to be had or of a newer format, ConfigError if the base cannot be loaded.
        """
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        opened = Release.open(release_folder(release))
        conditioning = opened.settings(ConditioningConfig, opened.conditioning)
        sampling = opened.settings(SampleConfig, opened.sampling)
        if bare:
            return cls.untrained(
                opened.backbone_config(base, dtype),
                conditioning,
                hidden_width=opened.encoder_config.get("hidden_width"),
                resolution=opened.resolution,
                sample_config=sampling,
                device=device,
            )
        backbone = Backbone.load(opened.backbone_config(base, dtype), device)
        fold(backbone.unet, load_offsets(opened.offsets))
        encoder = opened.settings(encoder_of, opened.encoder_config)
        opened.load_encoder(encoder)
        return cls(
            backbone,
            encoder.to(device).requires_grad_(False).eval(),
            Conditioning.of(backbone, conditioning),
            release=opened.identity,
            resolution=opened.resolution,
            tune_config=opened.settings(TuneConfig, opened.tuning),
            sample_config=sampling,
        )

    @classmethod
    def untrained(
        cls,
        backbone_config: BackboneConfig,
        conditioning_config: ConditioningConfig,
        *,
        hidden_width: int | None = None,
        seed: int = 0,
        resolution: int | None = None,
        tune_config: TuneConfig | None = None,
        sample_config: SampleConfig | None = None,
        device: str | None = None,
    ) -> "E4TPipeline":
        """The base with a fresh encoder and no offsets: what tuning starts from when nothing was pre-trained."""
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        backbone = Backbone.load(backbone_config, device)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            encoder = DomainEncoder(DomainEncoderConfig.for_backbone(backbone, hidden_width))
        return cls(
            backbone,
            encoder.to(device).requires_grad_(False).eval(),
            Conditioning.of(backbone, conditioning_config),
            release=bare_name(backbone_config),
            resolution=resolution,
            tune_config=tune_config,
            sample_config=sample_config,
        )

    def tune(
        self,
        image: Image.Image | Sequence[Image.Image],
        *,
        caption: str | Sequence[str] | None = None,
        mask: Mask | Sequence[Mask] | None = None,
        start: Concept | None = None,
        prior: Sequence[Image.Image] | None = None,
        on_step: Callable[[int, Losses], None] | None = None,
        **settings: Any,  # noqa: ANN401 - those of TuneConfig
    ) -> Concept:
        """Tune on one picture (or several) of the concept, load the result, and return it.

        ``caption`` says of each picture what is *not* the concept: ``a portrait of a smiling *s``. ``mask`` is a
        picture, white where the concept is, or a function that makes one of the picture. ``start`` is a concept whose
        learned word is taken up. ``prior`` are pictures of the domain that are not the concept, made by the base where
        the settings ask for some and none are given. ``settings`` are fields of TuneConfig, in place of the release's
        own: ``steps=5, train="lora"``.
        """
        given: dict[str, Any] = {"caption": caption, "mask": mask, "start": start, "prior": prior, "on_step": on_step}
        [concept] = self.tune_at(image, [replace(self.tune_config, **settings).steps], **given, **settings)
        self.load_concept(concept)
        return concept

    def tune_at(
        self,
        image: Image.Image | Sequence[Image.Image],
        stops: Sequence[int],
        *,
        caption: str | Sequence[str] | None = None,
        mask: Mask | Sequence[Mask] | None = None,
        start: Concept | None = None,
        prior: Sequence[Image.Image] | None = None,
        on_step: Callable[[int, Losses], None] | None = None,
        **settings: Any,  # noqa: ANN401 - those of TuneConfig
    ) -> list[Concept]:
        """As ``tune``, but return the concepts at several numbers of steps for the price of one; none is loaded."""
        given: dict[str, Any] = {"caption": caption, "mask": mask, "start": start, "prior": prior}
        with self.tuning(image, **given, **settings | {"steps": max(stops)}) as tuning:
            return tuning.run(self.release, stops, on_step)

    @contextmanager
    def tuning(
        self,
        image: Image.Image | Sequence[Image.Image],
        *,
        caption: str | Sequence[str] | None = None,
        mask: Mask | Sequence[Mask] | None = None,
        start: Concept | None = None,
        prior: Sequence[Image.Image] | None = None,
        **settings: Any,  # noqa: ANN401 - those of TuneConfig
    ) -> Iterator[Tuning]:
        """Tuning under way, step by step, of what ``tune`` takes; nothing is loaded after it.

        Inside the ``with`` block the pipeline paints with what has been learned so far, which changes nothing of what
        is learned.
        """
        images = [image] if isinstance(image, Image.Image) else list(image)
        captions = [caption] if isinstance(caption, str) else list(caption) if caption else None
        if captions and (len(captions) != len(images) or any(PLACEHOLDER not in c for c in captions)):
            raise ModelError(f"give one caption a picture, each with {PLACEHOLDER} where the concept stands")
        self.unload_concept()
        config = replace(self.tune_config, **settings)
        if config.prior_pictures and prior is None:
            prior = self.prior_pictures(config.prior_pictures, seed=config.seed)
        pictures = Pictures(pixels=self._stacked(images), captions=captions, masks=self._masks(mask, images))
        kept = self._stacked(prior) if prior else None
        models = (self.backbone, self.domain_encoder, self.conditioning)
        with Tuning(*models, pictures, config, start=start, prior=kept) as self._tuning:
            try:
                yield self._tuning
            finally:
                self._tuning = None

    def prior_pictures(self, count: int, *, seed: int = 0, at_once: int = 8) -> list[Image.Image]:
        """Pictures that the release makes of its domain word alone."""
        self.unload_concept()
        made: list[Image.Image] = []
        while len(made) < count:
            prompts = [domain_prompt(self.conditioning)] * min(at_once, count - len(made))
            made += self(prompts, seed=seed + len(made))
        return made

    def _stacked(self, images: Sequence[Image.Image]) -> Tensor:
        """As ``pixels``, of several: (N, 3, S, S)."""
        return stacked(images, self.resolution).to(self.backbone.device)

    def _masks(self, mask: Mask | Sequence[Mask] | None, images: Sequence[Image.Image]) -> Tensor | None:
        """(N, 1, S, S) in [0, 1]."""
        if mask is None:
            return None
        masks = [mask] * len(images) if callable(mask) else [mask] if isinstance(mask, Image.Image) else list(mask)
        if len(masks) != len(images):
            raise ModelError(f"give one mask a picture, or a function; there are {len(masks)} for {len(images)}")
        made = [one(image) if callable(one) else one for one, image in zip(masks, images, strict=True)]
        for one, image in zip(made, images, strict=True):
            if one.size != image.size:
                raise ModelError(f"a mask of {one.size} pixels does not fit its picture of {image.size}")
        return torch.cat([(self.pixels(one.convert("L")) + 1)[:, :1] / 2 for one in made])

    def pixels(self, image: Image.Image) -> Tensor:
        """A picture as (1, 3, S, S) in [-1, 1], center-cropped and resized to the release's resolution."""
        return to_pixels(image, self.resolution).to(self.backbone.device)

    def load_concept(self, concept: Concept | str | Path) -> None:
        """Load a concept or its folder in place of the one loaded before. Raises ModelError for another release's."""
        if not isinstance(concept, Concept):
            concept = Concept.load(concept)
        if concept.release != self.release:
            raise ModelError(
                f"the concept was tuned on release {concept.release}, this is {self.release}; tune it again here"
            )
        self.unload_concept()
        self.conditioning.null_states()  # those of the release, whatever the concept does to the text encoder
        self._loaded = LoadedConcept(concept, parts_of(self.backbone, self.domain_encoder))

    def unload_concept(self) -> None:
        """Go back to the release, bit for bit."""
        if self._loaded:
            self._loaded.unload()
            self._loaded = None

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        steps: int | None = None,
        guidance: float | None = None,
        seed: int = 0,
        on_step: Callable[[int, int], None] | None = None,
    ) -> list[Image.Image]:
        """One picture a prompt; *s in a prompt stands for the loaded concept."""
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        config = self.sample_config
        if steps is not None:
            config = replace(config, steps=steps)
        if guidance is not None:
            config = replace(config, guidance=guidance)
        latents = self.sample(prompts, config, seed, on_step)
        return self.to_images(latents)

    def to_images(self, latents: Tensor) -> list[Image.Image]:
        """Decode latents (B, C, h, w) into pictures."""
        vae = self.backbone.vae
        place = vae.device  # the host's memory, while something is being tuned
        vae.to(self.backbone.device)
        images = to_images(self.backbone.decode(latents))
        vae.to(place)
        return images

    @property
    def _word(self) -> Word | None:
        """What *s stands for: what is being tuned, or is loaded."""
        if self._tuning:
            return self._tuning.word()
        return self._loaded.concept.word if self._loaded else None

    @torch.no_grad()
    def sample(
        self, prompts: Sequence[str], config: SampleConfig, seed: int, on_step: Callable[[int, int], None] | None = None
    ) -> Tensor:
        """DDIM latents (B, C, h, w). Picture i depends on (seed + i) alone, not on the others in the batch."""
        word = self._word
        tokens = self.conditioning.tokenize(spoken(prompts, word, self.conditioning.config.domain_word))
        if word is None and tokens.placeholder.any():
            raise ModelError(
                f"the prompt names {PLACEHOLDER} but no concept is loaded; call tune(image) or load_concept first"
            )
        branches = Branches(self.backbone, self.domain_encoder, self.conditioning, tokens, word)
        shape = self.backbone.latent_shape(self.resolution)
        latents = torch.stack(
            [torch.randn(shape, generator=torch.Generator().manual_seed(seed + i)) for i in range(len(prompts))]
        )
        latents = latents.to(self.backbone.device) * float(self.scheduler.init_noise_sigma)
        self.scheduler.set_timesteps(config.steps)
        for index, timestep in enumerate(self.scheduler.timesteps):
            unconditional, conditional = branches(latents, timestep)
            prediction = guided(unconditional, conditional, config)
            latents = self.scheduler.step(prediction, timestep, latents).prev_sample
            if on_step:
                on_step(index + 1, config.steps)
        return latents


def bare_name(config: BackboneConfig) -> str:
    """What concepts call a base that they were tuned on without a release."""
    return f"{BARE}{Path(config.model).name}"
