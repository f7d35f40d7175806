"""Reading checkpoints of mkshing/e4t-diffusion."""

from math import prod
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel

from encoder.backbone.backbone import Backbone
from encoder.backbone.shapes import build_meta_backbone
from encoder.config import BackboneConfig
from encoder.errors import ModelError
from encoder.model.weight_offsets import attention_projections, load_offsets, merge_offsets, save_offsets
from encoder.releases.mkshing import offset_shapes, read_encoder, read_offsets, vision_shapes
from tests.mkshing import open_clip_tensors, weight_offsets, write_checkpoint

SD1 = BackboneConfig(model="CompVis/stable-diffusion-v1-4", image_encoder="laion/CLIP-ViT-H-14-laion2B-s32B-b79K")


@pytest.fixture
def base(family_folders: Path) -> Path:
    return family_folders / "sd1"


def dense(tensors: dict[str, Tensor], projection: str) -> Tensor:
    """Compute Delta (out, in) as that project does: an outer product, a linear over columns, then one over rows."""

    def part(name: str) -> Tensor:
        return tensors[f"{projection}.{name}"].double()

    constant = part("v")
    x = part("linear1.weight") @ constant + part("linear1.bias")
    y = part("linear2.weight") @ constant + part("linear2.bias")
    matrix = x[:, None] * y[None, :]
    matrix = matrix.T @ part("linear_column.weight").T + part("linear_column.bias")
    matrix = matrix.T @ part("linear_row.weight").T + part("linear_row.bias")
    return matrix.T


def test_collapsed_offsets_equal_the_dense_formula(backbone: Backbone, tmp_path: Path) -> None:
    tensors = weight_offsets(backbone.unet)
    torch.save(tensors, tmp_path / "weight_offsets.pt")
    save_offsets(read_offsets(tmp_path / "weight_offsets.pt", backbone.unet), tmp_path / "collapsed.safetensors")
    offsets = load_offsets(tmp_path / "collapsed.safetensors")
    assert offsets.keys() == attention_projections(backbone.unet).keys()
    for name, (u, v) in offsets.items():
        expected = dense(tensors, name.replace("to_", "wo_"))
        assert expected.abs().max() > 0.01  # otherwise the comparison would prove nothing
        torch.testing.assert_close((u @ v.T).double(), expected, rtol=0, atol=1e-5)


def test_merged_offsets_give_the_weights_that_project_computes_with(backbone: Backbone, tmp_path: Path) -> None:
    tensors, name = weight_offsets(backbone.unet), "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    torch.save(tensors, tmp_path / "weight_offsets.pt")
    weight = backbone.unet.get_submodule(name).weight.detach().clone()
    merge_offsets(backbone.unet, read_offsets(tmp_path / "weight_offsets.pt", backbone.unet))
    expected = weight * (1 + dense(tensors, name.replace("to_", "wo_")).float())
    torch.testing.assert_close(backbone.unet.get_submodule(name).weight.detach(), expected, rtol=0, atol=1e-5)


def test_the_offsets_of_stable_diffusion_1_shrink_from_573_to_1_5_mb() -> None:
    unet = build_meta_backbone(SD1).unet
    matrices = [(linear.out_features, linear.in_features) for linear in attention_projections(unet).values()]
    assert len(matrices) == 96
    assert 4 * sum(map(prod, offset_shapes(unet).values())) == 4 * 143_226_592 == 572_906_368
    assert 4 * sum(3 * rows + 2 * columns for rows, columns in matrices) == 4 * 373_632 == 1_494_528


def test_the_image_encoder_of_vit_h_has_the_391_tensors_of_open_clip() -> None:
    shapes = vision_shapes(build_meta_backbone(SD1).image_encoder)
    assert (len(shapes), shapes["clip_vision.positional_embedding"]) == (391, (257, 1280))
    assert shapes["clip_vision.transformer.resblocks.31.attn.in_proj_weight"] == (3840, 1280)


def test_a_trained_image_encoder_is_imported_and_gives_the_same_features(
    base: Path, backbone: Backbone, tmp_path: Path
) -> None:
    trained = CLIPVisionModel(CLIPVisionConfig(**backbone.image_encoder.config.to_dict()))
    checkpoint = write_checkpoint(tmp_path / "checkpoint", base, trained_image_encoder=trained)
    assert vision_shapes(trained) == {name: tuple(tensor.shape) for name, tensor in open_clip_tensors(trained).items()}
    _, read = read_encoder(checkpoint / "encoder.pt", backbone)
    assert read is not None
    read.save_pretrained(tmp_path / "clip")
    pixels, loaded = torch.randn(1, 3, 32, 32), CLIPVisionModel.from_pretrained(tmp_path / "clip").eval()
    torch.testing.assert_close(loaded(pixels).last_hidden_state, trained.eval()(pixels).last_hidden_state)


def test_encoder_weights_are_renamed(base: Path, backbone: Backbone, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", base)
    encoder, none = read_encoder(checkpoint / "encoder.pt", backbone)
    saved, read = torch.load(checkpoint / "encoder.pt", weights_only=True), encoder.state_dict()
    pairs = {
        "unet_proj.0.weight": "unet_feature_embedder.0.weight", "unet_proj.2.bias": "unet_feature_embedder.2.bias",
        "fusion_proj.weight": "feature_linear.weight", "clip_proj.2.weight": "first_linears.2.weight",
        "out_proj.bias": "final_linear.bias",
    }  # fmt: skip
    assert none is None
    assert len(read) == len(saved)
    assert all(torch.equal(read[name], saved[source_name]) for name, source_name in pairs.items())


def test_offsets_of_another_base_model_are_refused_in_one_line(family_folders: Path, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", family_folders / "sd1")
    other = UNet2DConditionModel.from_pretrained(family_folders / "sd2" / "unet")
    with pytest.raises(ModelError, match=r"linear1.weight is \(24, 1\), this base model needs \(40, 1\)") as caught:
        read_offsets(checkpoint / "weight_offsets.pt", other)
    assert "\n" not in str(caught.value)
