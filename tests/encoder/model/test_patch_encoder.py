"""The encoder of mkshing/e4t-diffusion, compared with a second implementation of its formulas."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from encoder.backbone.backbone import CLIP_MEAN, CLIP_STD, Backbone
from encoder.backbone.shapes import build_meta_backbone
from encoder.config import BackboneConfig
from encoder.model.conditioning import Conditioning
from encoder.model.features import unet_encoder_features
from encoder.model.patch_encoder import PatchEncoder, PatchEncoderConfig

H14 = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"


@pytest.fixture(params=["sd1", "sd2"])
def base(family_folders: Path, request: pytest.FixtureRequest) -> Path:
    return family_folders / request.param


@pytest.fixture
def patch_encoder(backbone: Backbone) -> PatchEncoder:
    return PatchEncoder(PatchEncoderConfig.for_backbone(backbone))


def reference_tokens(backbone: Backbone, pixels: Tensor) -> Tensor:
    resized = F.interpolate(pixels, (32, 32), mode="bicubic", align_corners=True)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    last = backbone.image_encoder((((resized + 1) / 2) - mean) / std, output_hidden_states=True).hidden_states[-1]
    class_token, patches = backbone.image_encoder.post_layernorm(last[:, 0]), last[:, 1:]
    return torch.cat([class_token[:, None], patches[:, 1::2]], dim=1)


def reference_features(backbone: Backbone, noisy: Tensor, timesteps: Tensor, null: Tensor) -> Tensor:
    """Run the whole UNet; pool the output of conv_in, of every layer of the down blocks and of the mid block."""
    unet, outputs = backbone.unet, list[Tensor]()

    def record(_: nn.Module, __: object, output: Tensor | tuple[Tensor, tuple[Tensor, ...]]) -> None:
        outputs.extend([output] if isinstance(output, Tensor) else output[1])

    hooks = [part.register_forward_hook(record) for part in (unet.conv_in, *unet.down_blocks, unet.mid_block)]
    unet(noisy, timesteps, null)
    for hook in hooks:
        hook.remove()
    return torch.cat([each.mean(dim=(2, 3)) for each in outputs], dim=1)


def reference_v(encoder: PatchEncoder, tokens: Tensor, features: Tensor) -> Tensor:
    weights = encoder.state_dict()

    def linear(name: str, inputs: Tensor) -> Tensor:
        return inputs @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def leaky_relu(inputs: Tensor) -> Tensor:
        return torch.where(inputs > 0, inputs, 0.01 * inputs)

    unet = linear("unet_proj.2", leaky_relu(linear("unet_proj.0", features)))
    each = [
        linear(f"clip_proj.{index}", linear("fusion_proj", torch.cat([tokens[:, index], unet], dim=1)))
        for index in range(tokens.shape[1])
    ]
    return linear("out_proj", leaky_relu(sum(each) / len(each)))


def test_the_inputs_are_the_class_token_and_every_second_patch_of_the_last_layer(
    backbone: Backbone, patch_encoder: PatchEncoder
) -> None:
    pixels = torch.rand(2, 3, 40, 40) * 2 - 1
    tokens = patch_encoder.image_features(backbone, pixels)
    assert tokens.shape == (2, 3, 16)
    torch.testing.assert_close(tokens, reference_tokens(backbone, pixels))


def test_the_output_equals_the_reference_computation(
    backbone: Backbone, patch_encoder: PatchEncoder, conditioning: Conditioning
) -> None:
    pixels, noisy, timesteps = torch.rand(2, 3, 32, 32) * 2 - 1, torch.randn(2, 4, 4, 4), torch.tensor([3, 700])
    null = conditioning.unconditional_embeddings()
    encoder_output = unet_encoder_features(backbone, noisy, timesteps, null)
    v = patch_encoder(patch_encoder.image_features(backbone, pixels), patch_encoder.unet_features(encoder_output))
    features = reference_features(backbone, noisy, timesteps, null.prompt_embeds.expand(2, -1, -1))
    expected = reference_v(patch_encoder, reference_tokens(backbone, pixels), features)
    torch.testing.assert_close(v, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "width"), [("CompVis/stable-diffusion-v1-4", 768), ("stabilityai/stable-diffusion-2-1", 1024)]
)
def test_with_vit_h_there_are_129_tokens_and_10880_feature_channels(model: str, width: int) -> None:
    shape = PatchEncoderConfig.for_backbone(build_meta_backbone(BackboneConfig(model=model, image_encoder=H14)))
    assert shape == PatchEncoderConfig(tokens=129, clip_width=1280, feature_channels=10_880, embedding_width=width)
