"""Shapes of published base models on the meta device, compared with the counts of the paper and the model cards."""

from pathlib import Path

import pytest
import torch

from e4t_errors import ConfigError
from encoder.backbone.shapes import build_meta_backbone
from encoder.config import BackboneConfig
from encoder.model.domain_encoder import DomainEncoderConfig
from encoder.model.weight_offsets import OffsetPredictor, attention_projections
from tests.bases import SHIPPED

SD1, SD2 = "stable-diffusion-v1-5/stable-diffusion-v1-5", "stabilityai/stable-diffusion-2-1"
SDXL, VIT_H = "stabilityai/stable-diffusion-xl-base-1.0", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("model", "unet", "texts", "width", "resolution"),
    [
        (SD1, 859_520_964, [123_060_480], 768, 512),
        (SD2, 865_910_724, [340_387_840], 1024, 768),
        (SDXL, 2_567_463_684, [123_060_480, 694_659_840], 2048, 1024),
    ],
)
def test_a_published_base_model_has_its_known_number_of_parameters(
    model: str, unet: int, texts: list[int], width: int, resolution: int
) -> None:
    backbone = build_meta_backbone(BackboneConfig(model=model, image_encoder=VIT_H))
    assert parameters(backbone.unet) == unet
    assert [parameters(text) for text in backbone.text_encoders.encoders] == texts
    assert parameters(backbone.vae) == 83_653_863
    assert (backbone.embedding_width, backbone.resolution) == (width, resolution)


def test_vit_h_gives_16_class_tokens_of_width_1280() -> None:
    """Conformance check 5 (docs/conformance.md)."""
    backbone = build_meta_backbone(BackboneConfig(model=SD1, image_encoder=VIT_H))
    shape = DomainEncoderConfig.for_backbone(backbone)
    assert (shape.class_tokens, shape.clip_width) == (16, 1280)
    assert parameters(backbone.image_encoder) == 632_076_800 - 1280 * 1024  # the model card counts the projection, too


def test_the_offsets_of_sd1_have_the_known_sizes() -> None:
    """Conformance check 9 (docs/conformance.md)."""
    unet = build_meta_backbone(BackboneConfig(model=SD1, image_encoder=VIT_H)).unet
    assert len(attention_projections(unet)) == 96
    with torch.device("meta"):
        assert parameters(OffsetPredictor.for_unet(unet)) == 143_226_592
        assert parameters(OffsetPredictor.for_unet(unet, "low_rank")) == 373_632


@pytest.mark.parametrize(("model", "count"), [(SD2, 96), (SDXL, 420)])
def test_every_attention_of_the_larger_base_models_has_offsets(model: str, count: int) -> None:
    unet = build_meta_backbone(BackboneConfig(model=model, image_encoder=VIT_H)).unet
    assert len(attention_projections(unet)) == count


def test_a_meta_backbone_of_a_folder_has_its_shapes() -> None:
    backbone = build_meta_backbone(BackboneConfig(model=str(SHIPPED)))
    assert (backbone.resolution, backbone.embedding_width) == (64, 128)
    assert all(parameter.is_meta for parameter in backbone.parameters())


def test_a_model_without_configuration_is_a_one_line_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="its configuration cannot be loaded"):
        build_meta_backbone(BackboneConfig(model=str(tmp_path)))
