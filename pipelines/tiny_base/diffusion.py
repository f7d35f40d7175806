"""Train the latent text-conditioned UNet together with its text encoder, which starts from CLIP's weights."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from data_prep.synthetic.faces import CONFIG_NAME, Identity, Scene, render
from data_prep.synthetic.vocabulary import EXPRESSIONS
from pipelines.tiny_base.config import BaseConfig
from pipelines.tiny_base.dataset import CaptionedImages, random_batches
from pipelines.tiny_base.loop import init_from, to_fp16, train

CAPTION_WEIGHTS = (3, 4, 1, 2)
"""Sampling weights of the captions: scene, complete, person only, partial."""
CAPTION_DROPOUT = 0.1
"""Fraction of captions replaced by an empty one, for classifier-free guidance (Ho & Salimans, arXiv 2207.12598)."""
FACE_WEIGHT = 4.0
"""Additional loss weight where expressions are visible: they cover few latents and are learned last otherwise."""
UNIFORM_FRACTION = 0.25
"""Fraction of timesteps sampled uniformly; the others follow a logit-normal distribution (Esser et al., arXiv
2403.03206), which favors the noise levels at which faces form."""
LOGIT_MEAN, LOGIT_STD = -0.4, 1.0
"""Mean and standard deviation of the logit-normal distribution."""
TOKEN_LOSS_WEIGHT = 0.1
"""Weight of a cross-entropy loss that predicts each token from its own text encoder state. Contrastive training leaves
the states of expression words nearly equal (3 % apart, colors 125 %), so that the UNet could not distinguish them."""


class TextConditionedUNet(nn.Module):
    """UNet and text encoder as one trainable module."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

    def forward(self, noisy_latents: Tensor, timesteps: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Predict the diffusion target of latents (B, C, h, w) for token ids (B, L).

        Returns the prediction (B, C, h, w), and token logits (B, L, vocabulary size) from each token's own state.
        """
        encoder_hidden_states = self.text_encoder(tokens).last_hidden_state
        token_logits = F.linear(encoder_hidden_states, self.text_encoder.get_input_embeddings().weight)
        return self.unet(noisy_latents, timesteps, encoder_hidden_states).sample, token_logits


@dataclass(frozen=True)
class LatentPosteriors:
    """Posterior of the autoencoder for every image, multiplied by the scaling factor."""

    mean: Tensor
    std: Tensor

    def sample(self, indices: Tensor) -> Tensor:
        """Sample latents (B, C, h, w) of the images at ``indices`` (B,)."""
        return self.mean[indices] + self.std[indices] * torch.randn_like(self.mean[indices])


def train_diffusion(
    config: BaseConfig, dataset: CaptionedImages, tokenizer: CLIPTokenizer, accelerator: Accelerator
) -> None:
    """Train the UNet on the autoencoder and CLIP in the output folder, and save a StableDiffusionPipeline folder."""
    output = Path(config.output)
    torch.manual_seed(config.seed)
    vae = AutoencoderKL.from_pretrained(output / "vae", use_safetensors=True).eval()
    exists = (output / "unet").exists()
    model = (
        _load_trained(output)
        if exists
        else TextConditionedUNet(_new_unet(config), _text_encoder_from_clip(output / "clip"))
    )
    if config.init_from and not exists:
        init_from(
            model.unet, UNet2DConditionModel.from_pretrained(config.init_from, subfolder="unet", use_safetensors=True)
        )
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,  # solid backgrounds need a start from pure noise (Lin et al., arXiv 2305.08891)
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )
    dataset = dataset.shard(accelerator.process_index, accelerator.num_processes)
    latents = encode_latents(vae, dataset)
    drawn_faces = (Path(config.image_dir) / CONFIG_NAME).exists()
    loss_weight = face_loss_weight(latents.mean.shape[-1], config.resolution) if drawn_faces else torch.ones(())
    torch.manual_seed(config.seed + accelerator.process_index)

    def save(ema: nn.Module) -> None:
        assert isinstance(ema, TextConditionedUNet)  # noqa: S101 - narrows the type for mypy
        for part in (vae, ema.unet):
            part.register_to_config(_name_or_path="")  # do not record the local folder that it was loaded from
        StableDiffusionPipeline(
            vae=to_fp16(vae),
            text_encoder=to_fp16(ema.text_encoder),
            tokenizer=tokenizer,
            unet=to_fp16(ema.unet),
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).save_pretrained(output)

    def losses(wrapped: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        clean, tokens = batch
        noise = torch.randn_like(clean)
        timesteps = sample_timesteps(len(clean), scheduler.config.num_train_timesteps)
        prediction, logits = wrapped(scheduler.add_noise(clean, noise, timesteps), timesteps, tokens)
        squared = F.mse_loss(prediction, scheduler.get_velocity(clean, noise, timesteps), reduction="none")
        token_loss = F.cross_entropy(logits.flatten(0, 1), tokens.flatten())
        return {
            "loss": (loss_weight * squared).mean() + TOKEN_LOSS_WEIGHT * token_loss,
            "denoising": squared.mean(),
            "token": token_loss,
        }

    batches = _latents_and_tokens(latents, dataset, tokenizer, config.diffusion.batch_size, config.seed)
    train("diffusion", model, batches, losses, save, config.diffusion, output, accelerator)


def _load_trained(output: Path) -> TextConditionedUNet:
    unet = UNet2DConditionModel.from_pretrained(output / "unet", use_safetensors=True)
    return TextConditionedUNet(
        unet, CLIPTextModel.from_pretrained(output / "text_encoder", dtype=torch.float32, use_safetensors=True)
    )


def _new_unet(config: BaseConfig) -> UNet2DConditionModel:
    blocks = len(config.unet_channels)
    return UNet2DConditionModel(
        sample_size=config.resolution // 2 ** (len(config.autoencoder_channels) - 1),
        in_channels=config.latent_channels,
        out_channels=config.latent_channels,
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * (blocks - 1)),
        up_block_types=(*("CrossAttnUpBlock2D",) * (blocks - 1), "UpBlock2D"),
        block_out_channels=config.unet_channels,
        layers_per_block=1,
        cross_attention_dim=config.text_width,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def _text_encoder_from_clip(clip_folder: Path) -> CLIPTextModel:
    clip = CLIPModel.from_pretrained(clip_folder, dtype=torch.float32, use_safetensors=True)
    text_encoder = CLIPTextModel(clip.config.text_config)
    target_state = text_encoder.state_dict()
    clip_state = clip.text_model.state_dict()
    prefix = "text_model." if next(iter(target_state)).startswith("text_model.") else ""
    text_encoder.load_state_dict({name: clip_state[name.removeprefix(prefix)] for name in target_state})
    return text_encoder


def sample_timesteps(count: int, num_train_timesteps: int) -> Tensor:
    """Sample timesteps (count,): logit-normal, with a uniform fraction so that pure noise is trained as well."""
    logit_normal = torch.sigmoid(LOGIT_MEAN + LOGIT_STD * torch.randn(count))
    fractions = torch.where(torch.rand(count) < UNIFORM_FRACTION, torch.rand(count), logit_normal)
    return (num_train_timesteps * fractions).long().clamp(max=num_train_timesteps - 1)


def face_loss_weight(latent_size: int, resolution: int, num_samples: int = 256) -> Tensor:
    """Return loss weights (latent_size, latent_size) of mean 1, largest where the expression changes the image most."""
    rng = random.Random(0)
    total_change = np.zeros((resolution, resolution))
    for _ in range(num_samples):
        identity, scene = Identity.random(rng), Scene.random(rng)
        other_scene = replace(scene, expression=rng.choice([name for name in EXPRESSIONS if name != scene.expression]))
        before, after = (np.asarray(render(identity, variant, resolution), float) for variant in (scene, other_scene))
        total_change += np.abs(before - after).mean(axis=2)
    pooled = F.adaptive_avg_pool2d(torch.from_numpy(total_change)[None].float(), latent_size)[0]
    weight = 1 + FACE_WEIGHT * pooled / pooled.max()
    return weight / weight.mean()


@torch.no_grad()
def encode_latents(vae: AutoencoderKL, dataset: CaptionedImages, batch_size: int = 64) -> LatentPosteriors:
    """Encode all images with the autoencoder."""
    posteriors = [
        vae.encode(dataset.images(indices)).latent_dist for indices in torch.arange(len(dataset)).split(batch_size)
    ]
    scale = vae.config.scaling_factor
    return LatentPosteriors(
        torch.cat([p.mean for p in posteriors]) * scale, torch.cat([p.std for p in posteriors]) * scale
    )


def _latents_and_tokens(
    latents: LatentPosteriors, dataset: CaptionedImages, tokenizer: CLIPTokenizer, batch_size: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    tokens = torch.stack(
        [
            tokenizer([*captions, ""], padding="max_length", return_tensors="pt").input_ids
            for captions in dataset.captions
        ]
    )
    weights = [weight / sum(CAPTION_WEIGHTS) * (1 - CAPTION_DROPOUT) for weight in CAPTION_WEIGHTS] + [CAPTION_DROPOUT]
    for indices, rng in random_batches(dataset, batch_size, seed):
        caption_indices = torch.tensor(rng.choices(range(len(weights)), weights, k=batch_size))
        yield latents.sample(indices), tokens[indices, caption_indices]
