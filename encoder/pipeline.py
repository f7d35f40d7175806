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
from encoder.concepts.concept import AppliedConcept, Concept
from encoder.concepts.concept_tokens import ConceptToken, expand_placeholder
from encoder.config import PLACEHOLDER, BackboneConfig, ConditioningConfig, Precision, SampleConfig, TuneConfig
from encoder.errors import ModelError
from encoder.images import preprocess, preprocess_batch, to_images
from encoder.model.conditioning import Conditioning
from encoder.model.domain_encoder import DomainEncoder, DomainEncoderConfig
from encoder.model.guidance import ClassifierFreeGuidance, apply_guidance
from encoder.model.losses import Losses
from encoder.model.registry import AnyDomainEncoder, build_encoder
from encoder.model.weight_offsets import load_offsets, merge_offsets
from encoder.releases.download import release_folder
from encoder.releases.release import Release
from encoder.tuning.prior import domain_prompt
from encoder.tuning.trainable import concept_modules
from encoder.tuning.tuner import Tuner, TuningImages

BASE_ONLY = "bare "
"""What the identity of such a base begins with."""
Mask = Image.Image | Callable[[Image.Image], Image.Image]
"""White where the concept is; or a function that makes such a picture of a picture, as a segmentation network does."""


class E4TPipeline(DiffusionPipeline):  # type: ignore[misc]
    """A domain encoder over its base model, its offsets folded in; one concept at a time can be loaded."""

    def __init__(
        self,
        backbone: Backbone,
        encoder: AnyDomainEncoder,
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
            text=backbone.text_encoders,
            unet=backbone.unet,
            scheduler=backbone.scheduler,
            clip=backbone.image_encoder,
            domain_encoder=encoder,
        )
        self.backbone, self.conditioning, self.release = backbone, conditioning, release
        self.resolution = resolution or backbone.resolution
        self.tune_config, self.sample_config = tune_config or TuneConfig(), sample_config or SampleConfig()
        self._applied_concept: AppliedConcept | None = None
        self._tuner: Tuner | None = None

    @classmethod
    def from_pretrained(
        cls,
        release: str | Path,
        *,
        base: str | None = None,
        device: str | None = None,
        dtype: Precision | None = None,
        base_only: bool = False,
    ) -> "E4TPipeline":
        """Open a release, a folder or on the hub (owner/name, owner/name@v1.0.0).

        ``base`` overrides where its base model lies, ``dtype`` how it is held. ``device`` is a GPU if there is one;
        ``bare`` leaves out what was pre-trained, for other methods. Raises ModelError for a release that is broken, not
        to be had or of a newer format, ConfigError if the base cannot be loaded.
        """
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        opened_release = Release.open(release_folder(release))
        conditioning = opened_release.parse(ConditioningConfig, opened_release.conditioning)
        sample_config = opened_release.parse(SampleConfig, opened_release.sampling)
        if base_only:
            return cls.from_base(
                opened_release.backbone_config(base, dtype),
                conditioning,
                hidden_width=opened_release.encoder_config.get("hidden_width"),
                resolution=opened_release.resolution,
                sample_config=sample_config,
                device=device,
            )
        backbone = Backbone.load(opened_release.backbone_config(base, dtype), device)
        merge_offsets(backbone.unet, load_offsets(opened_release.offsets))
        encoder = opened_release.parse(build_encoder, opened_release.encoder_config)
        opened_release.load_encoder(encoder)
        return cls(
            backbone,
            encoder.to(device).requires_grad_(False).eval(),
            Conditioning.from_backbone(backbone, conditioning),
            release=opened_release.id,
            resolution=opened_release.resolution,
            tune_config=opened_release.parse(TuneConfig, opened_release.tuning),
            sample_config=sample_config,
        )

    @classmethod
    def from_base(
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
            Conditioning.from_backbone(backbone, conditioning_config),
            release=base_only_id(backbone_config),
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
        init_concept: Concept | None = None,
        class_images: Sequence[Image.Image] | None = None,
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
        tune_inputs: dict[str, Any] = {
            "caption": caption,
            "mask": mask,
            "start": init_concept,
            "prior": class_images,
            "on_step": on_step,
        }
        [concept] = self.tune_checkpoints(
            image, [replace(self.tune_config, **settings).steps], **tune_inputs, **settings
        )
        self.load_concept(concept)
        return concept

    def tune_checkpoints(
        self,
        image: Image.Image | Sequence[Image.Image],
        checkpoint_steps: Sequence[int],
        *,
        caption: str | Sequence[str] | None = None,
        mask: Mask | Sequence[Mask] | None = None,
        init_concept: Concept | None = None,
        class_images: Sequence[Image.Image] | None = None,
        on_step: Callable[[int, Losses], None] | None = None,
        **settings: Any,  # noqa: ANN401 - those of TuneConfig
    ) -> list[Concept]:
        """As ``tune``, but return the concepts at several numbers of steps for the price of one; none is loaded."""
        tune_inputs: dict[str, Any] = {"caption": caption, "mask": mask, "start": init_concept, "prior": class_images}
        with self.tuning_session(image, **tune_inputs, **settings | {"steps": max(checkpoint_steps)}) as tuner:
            return tuner.run(self.release, checkpoint_steps, on_step)

    @contextmanager
    def tuning_session(
        self,
        image: Image.Image | Sequence[Image.Image],
        *,
        caption: str | Sequence[str] | None = None,
        mask: Mask | Sequence[Mask] | None = None,
        init_concept: Concept | None = None,
        class_images: Sequence[Image.Image] | None = None,
        **settings: Any,  # noqa: ANN401 - those of TuneConfig
    ) -> Iterator[Tuner]:
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
        if config.num_class_images and class_images is None:
            class_images = self.generate_class_images(config.num_class_images, seed=config.seed)
        tuning_images = TuningImages(
            pixels=self._preprocess_batch(images), captions=captions, masks=self._preprocess_masks(mask, images)
        )
        class_pixels = self._preprocess_batch(class_images) if class_images else None
        modules = (self.backbone, self.domain_encoder, self.conditioning)
        with Tuner(
            *modules, tuning_images, config, init_concept=init_concept, class_pixels=class_pixels
        ) as self._tuner:
            try:
                yield self._tuner
            finally:
                self._tuner = None

    def generate_class_images(self, count: int, *, seed: int = 0, batch_size: int = 8) -> list[Image.Image]:
        """Pictures that the release makes of its domain word alone."""
        self.unload_concept()
        images: list[Image.Image] = []
        while len(images) < count:
            prompts = [domain_prompt(self.conditioning)] * min(batch_size, count - len(images))
            images += self(prompts, seed=seed + len(images))
        return images

    def _preprocess_batch(self, images: Sequence[Image.Image]) -> Tensor:
        """As ``pixels``, of several: (N, 3, S, S)."""
        return preprocess_batch(images, self.resolution).to(self.backbone.device)

    def _preprocess_masks(self, mask: Mask | Sequence[Mask] | None, images: Sequence[Image.Image]) -> Tensor | None:
        """(N, 1, S, S) in [0, 1]."""
        if mask is None:
            return None
        masks = [mask] * len(images) if callable(mask) else [mask] if isinstance(mask, Image.Image) else list(mask)
        if len(masks) != len(images):
            raise ModelError(f"give one mask a picture, or a function; there are {len(masks)} for {len(images)}")
        mask_images = [one(image) if callable(one) else one for one, image in zip(masks, images, strict=True)]
        for one, image in zip(mask_images, images, strict=True):
            if one.size != image.size:
                raise ModelError(f"a mask of {one.size} pixels does not fit its picture of {image.size}")
        return torch.cat([(self.preprocess(one.convert("L")) + 1)[:, :1] / 2 for one in mask_images])

    def preprocess(self, image: Image.Image) -> Tensor:
        """A picture as (1, 3, S, S) in [-1, 1], center-cropped and resized to the release's resolution."""
        return preprocess(image, self.resolution).to(self.backbone.device)

    def load_concept(self, concept: Concept | str | Path) -> None:
        """Load a concept or its folder in place of the one loaded before. Raises ModelError for another release's."""
        if not isinstance(concept, Concept):
            concept = Concept.load(concept)
        if concept.release != self.release:
            raise ModelError(
                f"the concept was tuned on release {concept.release}, this is {self.release}; tune it again here"
            )
        self.unload_concept()
        self.conditioning.unconditional_embeddings()  # those of the release, whatever the concept does to the text encoder
        self._applied_concept = AppliedConcept(concept, concept_modules(self.backbone, self.domain_encoder))

    def unload_concept(self) -> None:
        """Go back to the release, bit for bit."""
        if self._applied_concept:
            self._applied_concept.unload()
            self._applied_concept = None

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int = 0,
        on_step: Callable[[int, int], None] | None = None,
    ) -> list[Image.Image]:
        """One picture a prompt; *s in a prompt stands for the loaded concept."""
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        config = self.sample_config
        if num_inference_steps is not None:
            config = replace(config, num_inference_steps=num_inference_steps)
        if guidance_scale is not None:
            config = replace(config, guidance_scale=guidance_scale)
        latents = self.sample(prompts, config, seed, on_step)
        return self.to_images(latents)

    def to_images(self, latents: Tensor) -> list[Image.Image]:
        """Decode latents (B, C, h, w) into pictures."""
        vae = self.backbone.vae
        original_device = vae.device  # the host's memory, while something is being tuned
        vae.to(self.backbone.device)
        images = to_images(self.backbone.decode(latents))
        vae.to(original_device)
        return images

    @property
    def _concept_token(self) -> ConceptToken | None:
        """What *s stands for: what is being tuned, or is loaded."""
        if self._tuner:
            return self._tuner.token()
        return self._applied_concept.concept.token if self._applied_concept else None

    @torch.no_grad()
    def sample(
        self, prompts: Sequence[str], config: SampleConfig, seed: int, on_step: Callable[[int, int], None] | None = None
    ) -> Tensor:
        """DDIM latents (B, C, h, w). Picture i depends on (seed + i) alone, not on the others in the batch."""
        token = self._concept_token
        tokenized_prompts = self.conditioning.tokenize(
            expand_placeholder(prompts, token, self.conditioning.config.domain_word)
        )
        if token is None and tokenized_prompts.placeholder_mask.any():
            raise ModelError(
                f"the prompt names {PLACEHOLDER} but no concept is loaded; call tune(image) or load_concept first"
            )
        guidance = ClassifierFreeGuidance(
            self.backbone, self.domain_encoder, self.conditioning, tokenized_prompts, token
        )
        shape = self.backbone.latent_shape(self.resolution)
        latents = torch.stack(
            [torch.randn(shape, generator=torch.Generator().manual_seed(seed + i)) for i in range(len(prompts))]
        )
        latents = latents.to(self.backbone.device) * float(self.scheduler.init_noise_sigma)
        self.scheduler.set_timesteps(config.num_inference_steps)
        for index, timestep in enumerate(self.scheduler.timesteps):
            unconditional, conditional = guidance(latents, timestep)
            prediction = apply_guidance(unconditional, conditional, config)
            latents = self.scheduler.step(prediction, timestep, latents).prev_sample
            if on_step:
                on_step(index + 1, config.num_inference_steps)
        return latents


def base_only_id(config: BackboneConfig) -> str:
    """What concepts call a base that they were tuned on without a release."""
    return f"{BASE_ONLY}{Path(config.model).name}"
