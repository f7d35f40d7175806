"""The text-conditioned UNet in latent space, and its text encoder, which starts as CLIP's and learns with it."""

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
from pipelines.tiny_base.dataset import Pictures, random_batches
from pipelines.tiny_base.loop import begin_as, halved, train

CAPTION_WEIGHTS = (3, 4, 1, 2)
"""Scene, complete, person alone, partial."""
DROP_CAPTION = 0.1
"""Share of empty captions, for classifier-free guidance (Ho & Salimans, arXiv 2207.12598)."""
FACE_WEIGHT = 4.0
"""Added weight of the loss where expressions show most: they are a few latents among hundreds, and learned last."""
UNIFORM_SHARE = 0.25
"""Share of timesteps drawn uniformly; the others are logit-normal, where faces take shape (Esser et al., arXiv
2403.03206)."""
LOGIT_MEAN, LOGIT_STD = -0.4, 1.0
WORDS_WEIGHT = 0.1
"""Weight of the loss by which every text state must tell its own word. Contrastive training had made all expressions
alike (states 3 % apart, those of colours 125 %), as CLIP hardly sees them; the UNet cannot obey what it cannot read."""


class TextToNoise(nn.Module):
    """UNet and text encoder as the one module that is trained."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

    def forward(self, noisy: Tensor, timesteps: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Predict the target for (B, C, h, w) latents under (B, L) tokens, and each token from its own text state.

        Returns (B, C, h, w) and logits (B, L, vocabulary).
        """
        states = self.text_encoder(tokens).last_hidden_state
        words = F.linear(states, self.text_encoder.get_input_embeddings().weight)
        return self.unet(noisy, timesteps, states).sample, words


@dataclass(frozen=True)
class Latents:
    """The autoencoder's posterior of every picture, scaled."""

    mean: Tensor
    std: Tensor

    def sample(self, indices: Tensor) -> Tensor:
        """(B, C, h, w) latents."""
        return self.mean[indices] + self.std[indices] * torch.randn_like(self.mean[indices])


def train_diffusion(config: BaseConfig, pictures: Pictures, tokenizer: CLIPTokenizer, accelerator: Accelerator) -> None:
    """Train on the output folder's autoencoder and CLIP, and write the whole as a StableDiffusionPipeline folder."""
    output = Path(config.output)
    torch.manual_seed(config.seed)
    vae = AutoencoderKL.from_pretrained(output / "vae", use_safetensors=True).eval()
    known = (output / "unet").exists()
    model = _known(output) if known else TextToNoise(_unet(config), _text_encoder(output / "clip"))
    if config.start and not known:
        begin_as(model.unet, UNet2DConditionModel.from_pretrained(config.start, subfolder="unet", use_safetensors=True))
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
    pictures = pictures.slice(accelerator.process_index, accelerator.num_processes)
    latents = encode(vae, pictures)
    drawn_faces = (Path(config.pictures) / CONFIG_NAME).exists()
    weight = face_weight(latents.mean.shape[-1], config.resolution) if drawn_faces else torch.ones(())
    torch.manual_seed(config.seed + accelerator.process_index)

    def save(ema: nn.Module) -> None:
        assert isinstance(ema, TextToNoise)  # noqa: S101 - narrows the type for mypy
        for part in (vae, ema.unet):
            part.register_to_config(_name_or_path="")  # the folder that it was loaded from is nobody's business
        StableDiffusionPipeline(
            vae=halved(vae),
            text_encoder=halved(ema.text_encoder),
            tokenizer=tokenizer,
            unet=halved(ema.unet),
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).save_pretrained(output)

    def losses(wrapped: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        clean, tokens = batch
        noise = torch.randn_like(clean)
        timesteps = draw_timesteps(len(clean), scheduler.config.num_train_timesteps)
        prediction, logits = wrapped(scheduler.add_noise(clean, noise, timesteps), timesteps, tokens)
        squared = F.mse_loss(prediction, scheduler.get_velocity(clean, noise, timesteps), reduction="none")
        words = F.cross_entropy(logits.flatten(0, 1), tokens.flatten())
        return {
            "loss": (weight * squared).mean() + WORDS_WEIGHT * words,
            "denoising": squared.mean(),
            "words": words,
        }

    batches = _latents_and_tokens(latents, pictures, tokenizer, config.diffusion.batch_size, config.seed)
    train("diffusion", model, batches, losses, save, config.diffusion, output, accelerator)


def _known(output: Path) -> TextToNoise:
    unet = UNet2DConditionModel.from_pretrained(output / "unet", use_safetensors=True)
    return TextToNoise(
        unet, CLIPTextModel.from_pretrained(output / "text_encoder", dtype=torch.float32, use_safetensors=True)
    )


def _unet(config: BaseConfig) -> UNet2DConditionModel:
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


def _text_encoder(clip_folder: Path) -> CLIPTextModel:
    clip = CLIPModel.from_pretrained(clip_folder, dtype=torch.float32, use_safetensors=True)
    text_encoder = CLIPTextModel(clip.config.text_config)
    wanted = text_encoder.state_dict()
    given = clip.text_model.state_dict()
    prefix = "text_model." if next(iter(wanted)).startswith("text_model.") else ""
    text_encoder.load_state_dict({name: given[name.removeprefix(prefix)] for name in wanted})
    return text_encoder


def draw_timesteps(count: int, total: int) -> Tensor:
    """(count,) timesteps below ``total``: logit-normal, with a uniform share so that pure noise is learned, too."""
    peaked = torch.sigmoid(LOGIT_MEAN + LOGIT_STD * torch.randn(count))
    shares = torch.where(torch.rand(count) < UNIFORM_SHARE, torch.rand(count), peaked)
    return (total * shares).long().clamp(max=total - 1)


def face_weight(side: int, resolution: int, people: int = 256) -> Tensor:
    """(side, side) weights of mean 1, heaviest where a change of expression alone changes the pictures."""
    rng = random.Random(0)
    changed = np.zeros((resolution, resolution))
    for _ in range(people):
        who, scene = Identity.random(rng), Scene.random(rng)
        other = replace(scene, expression=rng.choice([name for name in EXPRESSIONS if name != scene.expression]))
        before, after = (np.asarray(render(who, shown, resolution), float) for shown in (scene, other))
        changed += np.abs(before - after).mean(axis=2)
    pooled = F.adaptive_avg_pool2d(torch.from_numpy(changed)[None].float(), side)[0]
    weight = 1 + FACE_WEIGHT * pooled / pooled.max()
    return weight / weight.mean()


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: Pictures, batch_size: int = 64) -> Latents:
    """Encode every picture once."""
    posteriors = [
        vae.encode(pictures.images(indices)).latent_dist for indices in torch.arange(len(pictures)).split(batch_size)
    ]
    scale = vae.config.scaling_factor
    return Latents(torch.cat([p.mean for p in posteriors]) * scale, torch.cat([p.std for p in posteriors]) * scale)


def _latents_and_tokens(
    latents: Latents, pictures: Pictures, tokenizer: CLIPTokenizer, batch_size: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    tokens = torch.stack(
        [
            tokenizer([*captions, ""], padding="max_length", return_tensors="pt").input_ids
            for captions in pictures.captions
        ]
    )
    weights = [weight / sum(CAPTION_WEIGHTS) * (1 - DROP_CAPTION) for weight in CAPTION_WEIGHTS] + [DROP_CAPTION]
    for indices, rng in random_batches(pictures, batch_size, seed):
        chosen = torch.tensor(rng.choices(range(len(weights)), weights, k=batch_size))
        yield latents.sample(indices), tokens[indices, chosen]
