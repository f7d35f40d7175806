"""The whole method on a tiny base model of every Stable Diffusion family."""

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import Tensor

from encoder.backbone.backbone import Backbone
from encoder.backbone.unet_halves import concat, unet_decoder_forward, unet_encoder_forward
from encoder.concepts.concept import Concept
from encoder.config import SampleConfig, TuneConfig
from encoder.images import to_images
from encoder.model.conditioning import Conditioning
from encoder.model.domain_encoder import DomainEncoder
from encoder.model.features import class_tokens, unet_encoder_features
from encoder.model.losses import Losses, NoiseSample, diffusion_target, e4t_loss
from encoder.model.sampling import seeded_generators
from encoder.model.weight_offsets import OffsetPredictor, applied_offsets, merge_offsets
from encoder.pipeline import E4TPipeline
from tests.bases import UNETS

PROMPT = "a portrait of a *s"
NO_CHECKER = {"safety_checker": None, "feature_extractor": None}


@pytest.fixture(params=UNETS)
def base(family_folders: Path, request: pytest.FixtureRequest) -> Path:
    return family_folders / request.param


@pytest.fixture
def pipe(backbone: Backbone, encoder: DomainEncoder, conditioning: Conditioning) -> E4TPipeline:
    return E4TPipeline(
        backbone, encoder, conditioning, release="test 1.0.0",
        tune_config=TuneConfig(steps=2, batch_size=2, learning_rate=1e-3),
        sample_config=SampleConfig(num_inference_steps=3, guidance_scale=3.0),
    )  # fmt: skip


def losses(backbone: Backbone, encoder: DomainEncoder, conditioning: Conditioning, pixels: Tensor) -> Losses:
    mean = backbone.posterior(pixels).mean
    sample = NoiseSample.from_seeds(range(len(pixels)), mean.shape[1:], 1000)
    return e4t_loss(
        backbone, encoder, conditioning, latents=mean, class_tokens=class_tokens(backbone, pixels),
        prompts=conditioning.tokenize([PROMPT] * len(pixels)), noise=sample.noise, timesteps=sample.timesteps,
        regularization_weight=0.01,
    )  # fmt: skip


def test_sampling_equals_the_pipeline_of_diffusers(pipe: E4TPipeline, base: Path) -> None:
    pipeline_class, extra = (
        (StableDiffusionXLPipeline, {}) if base.name == "sdxl" else (StableDiffusionPipeline, NO_CHECKER)
    )
    reference = pipeline_class.from_pretrained(base, dtype=torch.float32, **extra)
    reference.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    expected = reference(
        "a portrait", num_inference_steps=3, guidance_scale=3.0, generator=generator, output_type="latent",
        height=32, width=32,
    ).images  # fmt: skip
    latents = pipe.sample(["a portrait"], pipe.sample_config, seeded_generators(3, 1))
    torch.testing.assert_close(latents, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("side", [4, 5])
def test_both_halves_together_equal_the_whole_unet(backbone: Backbone, conditioning: Conditioning, side: int) -> None:
    noisy, timesteps, pooled = torch.randn(2, 4, side, side), torch.tensor([3, 700]), []
    embeddings = conditioning.unconditional_embeddings().expand(2)
    output = unet_encoder_forward(backbone, noisy, timesteps, embeddings)
    expected = backbone.unet_forward(noisy, timesteps, embeddings)
    torch.testing.assert_close(unet_decoder_forward(backbone, output), expected)
    hook = backbone.unet.mid_block.register_forward_hook(lambda _, __, output: pooled.append(output.mean(dim=(2, 3))))
    backbone.unet_forward(noisy, timesteps, embeddings)
    hook.remove()
    torch.testing.assert_close(output.pooled_features[-1], pooled[0])


def test_concatenated_encoder_outputs_decode_like_each_alone(backbone: Backbone, conditioning: Conditioning) -> None:
    noisy, timestep = torch.randn(1, 4, 4, 4), torch.tensor(500)
    embeddings = [
        conditioning.unconditional_embeddings(),
        conditioning.encode_prompts(conditioning.tokenize(["a portrait"])),
    ]
    outputs = [unet_encoder_forward(backbone, noisy, timestep, each) for each in embeddings]
    torch.testing.assert_close(
        unet_decoder_forward(backbone, concat(outputs)),
        torch.cat([unet_decoder_forward(backbone, output) for output in outputs]),
    )


def test_every_text_encoder_uses_the_placeholder_embedding(backbone: Backbone, conditioning: Conditioning) -> None:
    prompts, widths = conditioning.tokenize([PROMPT]), backbone.text_encoders.widths
    default = conditioning.encode_prompts(prompts).prompt_embeds.split(widths, dim=-1)
    changed = conditioning.encode_prompts(prompts, torch.randn(1, sum(widths))).prompt_embeds.split(widths, dim=-1)
    assert all(not torch.allclose(a, b, atol=1e-3) for a, b in zip(default, changed, strict=True))


def test_a_pretraining_step_gives_gradients_to_encoder_and_offsets_only(
    backbone: Backbone, encoder: DomainEncoder, offsets: OffsetPredictor, conditioning: Conditioning, pixels: Tensor
) -> None:
    """Conformance check 7 (docs/conformance.md)."""
    with applied_offsets(backbone.unet, offsets()):
        losses(backbone, encoder, conditioning, pixels).total.backward()
    assert all(parameter.grad is not None for parameter in [*encoder.parameters(), *offsets.parameters()])
    assert all(parameter.grad is None for parameter in backbone.parameters())


def test_merged_offsets_give_the_loss_of_applied_offsets(
    backbone: Backbone, encoder: DomainEncoder, offsets: OffsetPredictor, conditioning: Conditioning, pixels: Tensor
) -> None:
    """Conformance check 4 (docs/conformance.md)."""
    with applied_offsets(backbone.unet, offsets()):
        applied = losses(backbone, encoder, conditioning, pixels).total
    merge_offsets(backbone.unet, offsets())
    torch.testing.assert_close(losses(backbone, encoder, conditioning, pixels).total, applied, rtol=1e-4, atol=1e-5)


def test_the_target_is_what_the_family_predicts(backbone: Backbone, base: Path) -> None:
    latents, noise, timesteps = torch.randn(1, 4, 4, 4), torch.randn(1, 4, 4, 4), torch.tensor([300])
    schedule = backbone.noise_scheduler
    alpha = schedule.alphas_cumprod[300]
    velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * latents
    expected = velocity if base.name == "sd2" else noise
    torch.testing.assert_close(diffusion_target(schedule, latents, noise, timesteps), expected)


@pytest.mark.parametrize("trainable", ["unet", "attention", "lora"])
def test_a_tuned_concept_can_be_saved_loaded_and_unloaded(
    pipe: E4TPipeline, pixels: Tensor, tmp_path: Path, trainable: str
) -> None:
    before = {name: tensor.clone() for name, tensor in pipe.backbone.state_dict().items()}
    pipe.tune(to_images(pixels[:1])[0], trainable=trainable, train_text_encoder=True).save(tmp_path / "concept")
    images = pipe.sample([PROMPT], pipe.sample_config, seeded_generators(1, 1))
    pipe.unload_concept()
    assert all(torch.equal(tensor, before[name]) for name, tensor in pipe.backbone.state_dict().items())
    pipe.load_concept(Concept.load(tmp_path / "concept"))
    assert torch.equal(pipe.sample([PROMPT], pipe.sample_config, seeded_generators(1, 1)), images)


def test_guidance_with_a_shared_feature_pass_equals_guidance_with_a_separate_one(
    pipe: E4TPipeline, pixels: Tensor
) -> None:
    pipe.tune(to_images(pixels[:1])[0])
    shared, config, backbone = (
        pipe.sample([PROMPT], pipe.sample_config, seeded_generators(1, 1)),
        pipe.sample_config,
        pipe.backbone,
    )
    prompts, unconditional = pipe.conditioning.tokenize([PROMPT]), pipe.conditioning.unconditional_embeddings()
    latents = torch.randn(1, *backbone.latent_shape(32), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for timestep in pipe.scheduler.timesteps:
            features = unet_encoder_features(backbone, latents, timestep, unconditional).pooled_features
            v = pipe.domain_encoder(class_tokens(backbone, pipe.preprocess(to_images(pixels[:1])[0])), features)
            conditional = pipe.conditioning.encode_prompts(prompts, pipe.conditioning.placeholder_embeddings(v))
            base, guided = (
                backbone.unet_forward(latents, timestep, embeddings) for embeddings in (unconditional, conditional)
            )
            latents = pipe.scheduler.step(base + config.guidance_scale * (guided - base), timestep, latents).prev_sample
    torch.testing.assert_close(shared, latents, rtol=1e-4, atol=1e-5)
