"""Inputs of the domain encoder: class tokens and UNet features."""

import pytest
import torch
from torch import Tensor

from encoder.backbone.backbone import Backbone
from encoder.model.conditioning import Conditioning
from encoder.model.features import class_token_layers, class_tokens, unet_encoder_features


def test_vit_h_gives_the_class_tokens_of_16_layers() -> None:
    """Conformance check 5 (docs/conformance.md)."""
    assert list(class_token_layers(32)) == list(range(1, 32, 2))


def test_class_tokens_come_from_every_second_layer(backbone: Backbone, pixels: Tensor) -> None:
    hidden = backbone.image_encoder(backbone.preprocess_clip(pixels), output_hidden_states=True).hidden_states
    tokens = class_tokens(backbone, pixels)
    assert torch.equal(tokens[:, 0], hidden[2][:, 0])
    assert torch.equal(tokens[:, -1], hidden[8][:, 0])


def test_the_feature_pass_runs_no_decoder_half_and_no_gradient(backbone: Backbone, conditioning: Conditioning) -> None:
    backbone.unet.requires_grad_(True)
    for block in backbone.unet.up_blocks:
        block.register_forward_hook(lambda *_: pytest.fail("the decoder half ran"))
    features = unet_encoder_features(
        backbone, torch.randn(1, 8, 16, 16), torch.tensor([5]), conditioning.unconditional_embeddings()
    ).pooled_features
    assert not any(pooled.requires_grad for pooled in features)
