import pytest
import torch

from e4t import ConfigError
from encoder.backbone.backbone import Backbone
from encoder.config import EncoderInputs
from encoder.model.domain_encoder import DomainEncoder, DomainEncoderConfig

SMALL = DomainEncoderConfig(class_tokens=3, clip_width=8, feature_channels=(4, 6), embedding_width=5, hidden_width=7)


def test_before_training_the_word_is_the_domains_own() -> None:
    v = DomainEncoder(SMALL)(torch.randn(2, 3, 8), [torch.randn(2, 4), torch.randn(2, 6)])
    assert torch.equal(v, torch.zeros(2, 5))


def test_it_is_the_mean_over_the_hierarchy_through_a_leaky_relu() -> None:
    encoder = DomainEncoder(SMALL)
    torch.nn.init.normal_(encoder.out_proj.weight)
    tokens, maps = torch.randn(2, 3, 8), [torch.randn(2, 4), torch.randn(2, 6)]
    members = [encoder.clip_proj[k](tokens[:, k]) for k in range(3)] + [encoder.unet_proj[j](maps[j]) for j in range(2)]
    mean = sum(members) / 5
    wanted = encoder.out_proj(torch.where(mean > 0, mean, 0.01 * mean))
    torch.testing.assert_close(encoder(tokens, maps), wanted)


def test_its_shape_follows_from_the_backbone(backbone: Backbone) -> None:
    config = DomainEncoderConfig.for_backbone(backbone)
    assert (config.class_tokens, config.clip_width) == (4, 128)
    assert config.feature_channels == (48, 96, 160, 160)
    assert config.embedding_width == 128


@pytest.mark.parametrize(
    ("sees", "tokens", "maps"), [("no_unet_features", 4, ()), ("last_layer_only", 1, (48, 96, 160, 160))]
)
def test_an_ablated_encoder_does_not_look_at_what_it_lacks(
    backbone: Backbone, sees: EncoderInputs, tokens: int, maps: tuple[int, ...]
) -> None:
    config = DomainEncoderConfig.for_backbone(backbone, hidden_width=8, encoder_inputs=sees)
    assert (config.class_tokens, config.feature_channels) == (tokens, maps)
    encoder = DomainEncoder(config)
    torch.nn.init.normal_(encoder.out_proj.weight)
    seen, pooled = torch.randn(2, 4, 128), [torch.randn(2, channels) for channels in (48, 96, 160, 160)]
    unseen = seen.clone()
    unseen[:, : 4 - tokens] = 0
    assert torch.equal(encoder(unseen, pooled if maps else [each * 0 for each in pooled]), encoder(seen, pooled))


def test_no_width_is_refused() -> None:
    with pytest.raises(ConfigError, match="hidden_width"):
        DomainEncoderConfig(class_tokens=1, clip_width=1, feature_channels=(1,), embedding_width=1, hidden_width=0)
