"""``E4TPipeline``: tune a domain encoder release on an image, then generate images of the concept."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor

from encoder.backbone.backbone import Backbone
from encoder.backbone.schedulers import check_scheduler
from encoder.concepts.concept import AppliedConcept, Concept, check_fits
from encoder.concepts.concept_tokens import ConceptToken, LearnedToken, RareToken, expand_placeholder
from encoder.config import BackboneConfig, ConditioningConfig, Precision, SampleConfig, TuneConfig
from encoder.errors import ModelError
from encoder.images import preprocess, preprocess_batch, to_images
from encoder.model.conditioning import Conditioning
from encoder.model.domain_encoder import DomainEncoder, DomainEncoderConfig
from encoder.model.guidance import ClassifierFreeGuidance
from encoder.model.losses import Losses
from encoder.model.registry import AnyDomainEncoder, build_encoder
from encoder.model.sampling import Generators, denoise, initial_noise, seeded_generators
from encoder.model.weight_offsets import load_offsets, merge_offsets
from encoder.placeholder import PLACEHOLDER
from encoder.releases.download import release_folder
from encoder.releases.release import Release
from encoder.tuning.inputs import Mask, TuningInputs
from encoder.tuning.presets import METHODS, MethodName
from encoder.tuning.prior import domain_prompt
from encoder.tuning.trainable import concept_modules
from encoder.tuning.tuner import Tuner

BASE_ONLY = "bare "
"""Prefix of the release name of a base model without a release. Concepts on disk hold it, so the text stays."""
EndOfStepCallback = Callable[["E4TPipeline", int, Tensor, dict[str, Tensor]], dict[str, Tensor]]
"""``callback_on_step_end`` as diffusers' pipelines define it."""


class E4TPipeline(DiffusionPipeline):  # type: ignore[misc]
    """A domain encoder and its base model with the weight offsets merged in. One concept at a time can be loaded."""

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
        """Assemble the pipeline; ``from_pretrained`` and ``from_base`` do so from files.

        ``release`` is the name and version that concepts record. ``resolution`` is the side in pixels of the images
        that the encoder was trained on, by default the base model's.
        """
        super().__init__()
        self.register_modules(
            vae=backbone.vae,
            text_encoders=backbone.text_encoders,
            unet=backbone.unet,
            scheduler=backbone.scheduler,
            image_encoder=backbone.image_encoder,
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
        """Load a release from a folder or the hub (owner/name, owner/name@v1.0.0).

        ``base`` overrides the folder or hub id of its base model, ``dtype`` the precision of the base model's weights.
        ``device`` is a GPU if there is one. ``base_only`` leaves out everything pre-trained by E4T, for the methods
        that start from the base model. Raises ModelError if the release is damaged, missing or of a newer format, and
        ConfigError if the base model cannot be loaded.
        """
        device = device or _default_device()
        opened_release = Release.open(release_folder(release))
        if base_only:
            return cls.from_base(
                opened_release.backbone_config(base, dtype),
                opened_release.conditioning,
                hidden_width=opened_release.encoder_config.get("hidden_width"),
                resolution=opened_release.resolution,
                sample_config=opened_release.sampling,
                device=device,
            )
        backbone = Backbone.load(opened_release.backbone_config(base, dtype), device)
        merge_offsets(backbone.unet, load_offsets(opened_release.offsets))
        encoder = opened_release.build(build_encoder)
        opened_release.load_encoder(encoder)
        return cls(
            backbone,
            encoder.to(device).requires_grad_(False).eval(),
            Conditioning.from_backbone(backbone, opened_release.conditioning),
            release=opened_release.id,
            resolution=opened_release.resolution,
            tune_config=opened_release.tuning,
            sample_config=opened_release.sampling,
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
        """Load a base model with an untrained encoder, initialized from ``seed``, and without weight offsets."""
        device = device or _default_device()
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
        method: MethodName = "e4t",
        on_step: Callable[[int, Losses], None] | None = None,
        **settings: Any,  # noqa: ANN401 - fields of TuneConfig
    ) -> Concept:
        """Tune on one or several images of a concept, load the result and return it.

        The keywords ``caption`` to ``class_images`` are the fields of ``TuningInputs``. ``method`` and ``settings`` are
        those of ``tuning_config``, for example ``steps=5, trainable="lora"``. ``on_step`` is called after each step
        with the number of steps done and the losses.
        """
        config = self.tuning_config(method, **settings)
        inputs = TuningInputs.create(
            image, caption=caption, mask=mask, init_concept=init_concept, class_images=class_images
        )
        [concept] = self.tune_checkpoints(inputs, [config.steps], config=config, on_step=on_step)
        self.load_concept(concept)
        return concept

    def tune_checkpoints(
        self,
        inputs: TuningInputs,
        checkpoint_steps: Sequence[int],
        *,
        config: TuneConfig | None = None,
        on_step: Callable[[int, Losses], None] | None = None,
    ) -> list[Concept]:
        """Tune up to the last of ``checkpoint_steps`` and return the concept at each; none is loaded."""
        config = replace(config or self.tune_config, steps=max(checkpoint_steps))
        with self.tuning_session(inputs, config=config) as tuner:
            return tuner.run(self.release, checkpoint_steps, on_step)

    @contextmanager
    def tuning_session(self, inputs: TuningInputs, *, config: TuneConfig | None = None) -> Iterator[Tuner]:
        """Tune step by step inside the ``with`` block; no concept is loaded after it.

        Inside the block, the pipeline generates images with what has been learned so far. This does not influence the
        tuning.
        """
        self.unload_concept()
        config, class_images = config or self.tune_config, inputs.class_images
        if config.num_class_images and class_images is None:
            class_images = self.generate_class_images(config.num_class_images, seed=config.seed)
        with Tuner(
            self.backbone,
            self.domain_encoder,
            self.conditioning,
            inputs.to_tensors(self.resolution, self.backbone.device),
            config,
            init_concept=inputs.init_concept,
            class_pixels=preprocess_batch(class_images, self.resolution).to(self.backbone.device)
            if class_images
            else None,
        ) as self._tuner:
            try:
                yield self._tuner
            finally:
                self._tuner = None

    def tuning_config(self, method: MethodName = "e4t", **settings: Any) -> TuneConfig:  # noqa: ANN401 - fields of TuneConfig
        """Return the tuning settings of a method, some of them replaced by ``settings``.

        ``e4t`` uses the settings of the release, any other method those of its preset.
        """
        return replace(self.tune_config if method == "e4t" else METHODS[method], **settings)

    def generate_class_images(self, count: int, *, seed: int = 0, batch_size: int = 8) -> list[Image.Image]:
        """Generate ``count`` images from the domain word alone, for prior preservation."""
        self.unload_concept()
        images: list[Image.Image] = []
        while len(images) < count:
            prompts = [domain_prompt(self.conditioning)] * min(batch_size, count - len(images))
            images += self(prompts, generator=seeded_generators(seed + len(images), len(prompts)))
        return images

    def preprocess(self, image: Image.Image) -> Tensor:
        """Crop an image to its center square and resize it to the release's resolution: (1, 3, S, S) in [-1, 1]."""
        return preprocess(image, self.resolution).to(self.backbone.device)

    def load_concept(self, concept: Concept | str | Path) -> None:
        """Load a concept, or a concept from its folder or file, in place of the one loaded before.

        Raises ModelError if it was tuned on another release or does not fit; the release's weights are unchanged then.
        """
        if not isinstance(concept, Concept):
            concept = Concept.load(concept)
        if concept.release != self.release:
            raise ModelError(
                f"the concept was tuned on release {concept.release}, this is {self.release}; tune it again here"
            )
        modules, widths = concept_modules(self.backbone, self.domain_encoder), tuple(self.backbone.text_encoders.widths)
        check_fits(concept, modules)
        if isinstance(concept.token, LearnedToken) and concept.token.widths != widths:
            raise ModelError(
                f"the concept's token embedding has widths {concept.token.widths}, this base model {widths}; tune it "
                "again here"
            )
        self.unload_concept()
        self.conditioning.unconditional_embeddings()  # cached before the concept changes the text encoder
        self._applied_concept = AppliedConcept(concept, modules)

    def unload_concept(self) -> None:
        """Restore the release's weights, bit for bit."""
        if self._applied_concept:
            self._applied_concept.unload()
            self._applied_concept = None

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: Generators | None = None,
        callback_on_step_end: EndOfStepCallback | None = None,
    ) -> list[Image.Image]:
        """Generate one image per prompt; ``*s`` in a prompt stands for the loaded concept.

        ``num_inference_steps`` and ``guidance_scale`` are the release's own unless given. ``generator`` is a
        ``torch.Generator`` or a list of one per image (see ``seeded_generators``). ``callback_on_step_end`` is called
        as ``callback(pipe, step_index, timestep, {"latents": latents})`` after each step; latents in the dictionary
        that it returns replace the current ones.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        config = self.sample_config
        if num_inference_steps is not None:
            config = replace(config, num_inference_steps=num_inference_steps)
        if guidance_scale is not None:
            config = replace(config, guidance_scale=guidance_scale)
        return self.to_images(self.sample(prompts, config, generator, callback_on_step_end))

    def to_images(self, latents: Tensor) -> list[Image.Image]:
        """Decode latents (B, C, h, w) into images."""
        vae = self.backbone.vae
        original_device = vae.device  # the CPU during tuning, which offloads the VAE
        vae.to(self.backbone.device)
        try:
            return to_images(self.backbone.decode(latents))
        finally:
            vae.to(original_device)

    @property
    def _concept_token(self) -> ConceptToken | None:
        """Token that ``*s`` stands for: that of the running tuning session, else of the loaded concept."""
        if self._tuner:
            return self._tuner.token()
        return self._applied_concept.concept.token if self._applied_concept else None

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[str],
        config: SampleConfig,
        generator: Generators | None = None,
        callback_on_step_end: EndOfStepCallback | None = None,
    ) -> Tensor:
        """Sample latents (B, C, h, w) with ``scheduler``; ``generator`` and the callback are those of ``__call__``.

        Raises ModelError if a prompt holds ``*s`` and no concept is loaded, ConfigError if the scheduler does not fit
        the base model.
        """
        check_scheduler(self.scheduler, self.backbone.scheduler)
        token = self._concept_token
        if isinstance(token, RareToken):
            self.conditioning.tokenize(prompts)  # raises if the placeholder would be cut off
        expanded_prompts = expand_placeholder(prompts, token, self.conditioning.config.domain_word)
        tokenized_prompts = self.conditioning.tokenize(expanded_prompts)
        if token is None and tokenized_prompts.placeholder_mask.any():
            raise ModelError(
                f"a prompt holds {PLACEHOLDER} but no concept is loaded; call tune(image) or load_concept first"
            )
        guidance = ClassifierFreeGuidance(
            self.backbone, self.domain_encoder, self.conditioning, tokenized_prompts, token
        )
        shape = self.backbone.latent_shape(self.resolution)
        noise = initial_noise(shape, len(prompts), generator, self.backbone.device)
        on_step_end = partial(callback_on_step_end, self) if callback_on_step_end else None
        return denoise(guidance, self.scheduler, noise, config, on_step_end, generator)


def base_only_id(config: BackboneConfig) -> str:
    """Return what concepts record as their release if they were tuned on this base model without a release."""
    return f"{BASE_ONLY}{Path(config.model).name}"


def _default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
