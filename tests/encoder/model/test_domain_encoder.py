"""The domain encoder: its initial state, its computation and its shape."""

import pytest
import torch

from e4t_errors import ConfigError
from encoder.backbone.backbone import Backbone
from encoder.config import EncoderInputs
from encoder.model.domain_encoder import DomainEncoder, DomainEncoderConfig

SMALL = DomainEncoderConfig(class_tokens=3, clip_width=8, feature_channels=(4, 6), embedding_width=5, hidden_width=7)


def test_an_untrained_encoder_predicts_zero() -> None:
    v = DomainEncoder(SMALL)(torch.randn(2, 3, 8), [torch.randn(2, 4), torch.randn(2, 6)])
    assert torch.equal(v, torch.zeros(2, 5))


def test_the_output_is_a_projection_of_the_mean_over_all_inputs_through_a_leaky_relu() -> None:
    encoder = DomainEncoder(SMALL)
    torch.nn.init.normal_(encoder.out_proj.weight)
    tokens, features = torch.randn(2, 3, 8), [torch.randn(2, 4), torch.randn(2, 6)]
    projections = [encoder.clip_proj[k](tokens[:, k]) for k in range(3)] + [
        encoder.unet_proj[j](features[j]) for j in range(2)
    ]
    mean = sum(projections) / 5
    expected = encoder.out_proj(torch.where(mean > 0, mean, 0.01 * mean))
    torch.testing.assert_close(encoder(tokens, features), expected)


def test_the_shape_follows_from_the_backbone(backbone: Backbone) -> None:
    config = DomainEncoderConfig.for_backbone(backbone)
    assert (config.class_tokens, config.clip_width) == (4, 128)
    assert config.feature_channels == (48, 96, 160, 160)
    assert config.embedding_width == 128


@pytest.mark.parametrize(
    ("inputs", "tokens", "channels"), [("no_unet_features", 4, ()), ("last_layer_only", 1, (48, 96, 160, 160))]
)
def test_an_ablated_encoder_ignores_the_inputs_that_it_lacks(
    backbone: Backbone, inputs: EncoderInputs, tokens: int, channels: tuple[int, ...]
) -> None:
    config = DomainEncoderConfig.for_backbone(backbone, hidden_width=8, encoder_inputs=inputs)
    assert (config.class_tokens, config.feature_channels) == (tokens, channels)
    encoder = DomainEncoder(config)
    torch.nn.init.normal_(encoder.out_proj.weight)
    class_tokens, pooled = torch.randn(2, 4, 128), [torch.randn(2, width) for width in (48, 96, 160, 160)]
    changed_tokens = class_tokens.clone()
    changed_tokens[:, : 4 - tokens] = 0
    changed_pooled = pooled if channels else [torch.zeros_like(feature) for feature in pooled]
    assert torch.equal(encoder(changed_tokens, changed_pooled), encoder(class_tokens, pooled))


def test_a_hidden_width_of_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match="hidden_width"):
        DomainEncoderConfig(class_tokens=1, clip_width=1, feature_channels=(1,), embedding_width=1, hidden_width=0)
