"""Everything that the method does, on a tiny base of every Stable Diffusion family."""

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
from encoder.model.weight_offsets import OffsetPredictor, clear_offsets, merge_offsets, set_offsets
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
    draw = NoiseSample.from_seeds(range(len(pixels)), mean.shape[1:], 1000)
    return e4t_loss(
        backbone, encoder, conditioning, latents=mean, class_tokens=class_tokens(backbone, pixels),
        prompts=conditioning.tokenize([PROMPT] * len(pixels)), noise=draw.noise, timesteps=draw.timesteps,
        regularization_weight=0.01,
    )  # fmt: skip


def test_it_paints_as_the_familys_own_pipeline(pipe: E4TPipeline, base: Path) -> None:
    kind, extra = (StableDiffusionXLPipeline, {}) if base.name == "sdxl" else (StableDiffusionPipeline, NO_CHECKER)
    theirs = kind.from_pretrained(base, dtype=torch.float32, **extra)
    theirs.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    wanted = theirs(
        "a portrait", num_inference_steps=3, guidance_scale=3.0, generator=generator, output_type="latent",
        height=32, width=32,
    ).images  # fmt: skip
    made = pipe.sample(["a portrait"], pipe.sample_config, seeded_generators(3, 1))
    torch.testing.assert_close(made, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("side", [4, 5])
def test_both_halves_are_the_whole_unet(backbone: Backbone, conditioning: Conditioning, side: int) -> None:
    noisy, timesteps, seen = torch.randn(2, 4, side, side), torch.tensor([3, 700]), []
    text = conditioning.unconditional_embeddings().expand(2)
    half = unet_encoder_forward(backbone, noisy, timesteps, text)
    torch.testing.assert_close(unet_decoder_forward(backbone, half), backbone.unet_forward(noisy, timesteps, text))
    hook = backbone.unet.mid_block.register_forward_hook(lambda _, __, output: seen.append(output.mean(dim=(2, 3))))
    backbone.unet_forward(noisy, timesteps, text)
    hook.remove()
    torch.testing.assert_close(half.pooled_features[-1], seen[0])


def test_two_halves_joined_are_decoded_as_each_alone(backbone: Backbone, conditioning: Conditioning) -> None:
    noisy, timestep = torch.randn(1, 4, 4, 4), torch.tensor(500)
    texts = [
        conditioning.unconditional_embeddings(),
        conditioning.encode_prompts(conditioning.tokenize(["a portrait"])),
    ]
    halves = [unet_encoder_forward(backbone, noisy, timestep, text) for text in texts]
    torch.testing.assert_close(
        unet_decoder_forward(backbone, concat(halves)),
        torch.cat([unet_decoder_forward(backbone, half) for half in halves]),
    )


def test_every_text_encoder_hears_the_word(backbone: Backbone, conditioning: Conditioning) -> None:
    prompts, widths = conditioning.tokenize([PROMPT]), backbone.text_encoders.widths
    plain = conditioning.encode_prompts(prompts).prompt_embeds.split(widths, dim=-1)
    heard = conditioning.encode_prompts(prompts, torch.randn(1, sum(widths))).prompt_embeds.split(widths, dim=-1)
    assert all(not torch.allclose(a, b, atol=1e-3) for a, b in zip(plain, heard, strict=True))


def test_a_pretraining_step_gives_gradients_to_encoder_and_offsets_alone(
    backbone: Backbone, encoder: DomainEncoder, offsets: OffsetPredictor, conditioning: Conditioning, pixels: Tensor
) -> None:
    set_offsets(backbone.unet, offsets())
    losses(backbone, encoder, conditioning, pixels).total.backward()
    assert all(parameter.grad is not None for parameter in [*encoder.parameters(), *offsets.parameters()])
    assert all(parameter.grad is None for parameter in backbone.parameters())


def test_folded_offsets_are_the_offsets(
    backbone: Backbone, encoder: DomainEncoder, offsets: OffsetPredictor, conditioning: Conditioning, pixels: Tensor
) -> None:
    set_offsets(backbone.unet, offsets())
    applied = losses(backbone, encoder, conditioning, pixels).total
    clear_offsets(backbone.unet)
    merge_offsets(backbone.unet, offsets())
    torch.testing.assert_close(losses(backbone, encoder, conditioning, pixels).total, applied, rtol=1e-4, atol=1e-5)


def test_the_unet_is_asked_for_what_the_family_predicts(backbone: Backbone, base: Path) -> None:
    latents, noise, timesteps = torch.randn(1, 4, 4, 4), torch.randn(1, 4, 4, 4), torch.tensor([300])
    schedule = backbone.noise_scheduler
    alpha = schedule.alphas_cumprod[300]
    velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * latents
    wanted = velocity if base.name == "sd2" else noise
    torch.testing.assert_close(diffusion_target(schedule, latents, noise, timesteps), wanted)


@pytest.mark.parametrize("train", ["unet", "attention", "lora"])
def test_a_tuned_concept_is_saved_loaded_and_unloaded(
    pipe: E4TPipeline, pixels: Tensor, tmp_path: Path, train: str
) -> None:
    before = {name: tensor.clone() for name, tensor in pipe.backbone.state_dict().items()}
    pipe.tune(to_images(pixels[:1])[0], trainable=train, train_text_encoder=True).save(tmp_path / "concept")
    painted = pipe.sample([PROMPT], pipe.sample_config, seeded_generators(1, 1))
    pipe.unload_concept()
    assert all(torch.equal(tensor, before[name]) for name, tensor in pipe.backbone.state_dict().items())
    pipe.load_concept(Concept.load(tmp_path / "concept"))
    assert torch.equal(pipe.sample([PROMPT], pipe.sample_config, seeded_generators(1, 1)), painted)


def test_the_shared_feature_pass_gives_what_one_of_its_own_gives(pipe: E4TPipeline, pixels: Tensor) -> None:
    pipe.tune(to_images(pixels[:1])[0])
    shared, config, backbone = (
        pipe.sample([PROMPT], pipe.sample_config, seeded_generators(1, 1)),
        pipe.sample_config,
        pipe.backbone,
    )
    prompts, null = pipe.conditioning.tokenize([PROMPT]), pipe.conditioning.unconditional_embeddings()
    latents = torch.randn(1, *backbone.latent_shape(32), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for timestep in pipe.scheduler.timesteps:
            maps = unet_encoder_features(backbone, latents, timestep, null).pooled_features
            v = pipe.domain_encoder(class_tokens(backbone, pipe.preprocess(to_images(pixels[:1])[0])), maps)
            told_of_v = pipe.conditioning.encode_prompts(prompts, pipe.conditioning.placeholder_embeddings(v))
            plain, told = (backbone.unet_forward(latents, timestep, s) for s in (null, told_of_v))
            latents = pipe.scheduler.step(plain + config.guidance_scale * (told - plain), timestep, latents).prev_sample
    torch.testing.assert_close(shared, latents, rtol=1e-4, atol=1e-5)
