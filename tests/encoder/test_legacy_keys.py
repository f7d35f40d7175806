"""Files written before the current names are read under the current names."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from encoder.legacy_keys import rename_legacy_tensors
from encoder.model.registry import build_encoder
from encoder.releases.release import Release

FACES = Path(__file__).parents[2] / "models" / "faces"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("from_clip.0.weight", "clip_proj.0.weight"),
        ("encoder.from_unet.2.bias", "encoder.unet_proj.2.bias"),
        ("encoder/to_embedding.weight", "encoder/out_proj.weight"),
        ("joined.weight", "fusion_proj.weight"),
        ("matrices.3.rows.weight", "offsets.3.rows.weight"),
        ("offsets.matrices.3.rows.weight", "offsets.offsets.3.rows.weight"),
    ],
)
def test_an_old_tensor_name_becomes_the_current_one(old: str, new: str) -> None:
    assert list(rename_legacy_tensors({old: torch.zeros(1)})) == [new]


@pytest.mark.parametrize(
    "name",
    ["clip_proj.0.weight", "offsets.3.rows.weight", "unet/mid_block.attentions.0.proj_in.weight", "unet/joined.weight"],
)
def test_other_tensor_names_stay(name: str) -> None:
    assert list(rename_legacy_tensors({name: torch.zeros(1)})) == [name]


def test_the_shipped_release_of_the_first_format_loads_bit_for_bit() -> None:
    release, tensors = Release.open(FACES), load_file(FACES / "domain_encoder" / "model.safetensors")
    assert "to_embedding.weight" in tensors and "map_channels" in release.encoder_config
    encoder = build_encoder(**release.encoder_config)
    release.load_encoder(encoder)
    assert torch.equal(encoder.out_proj.weight, tensors["to_embedding.weight"])
    assert torch.equal(encoder.clip_proj[0].weight, tensors["from_clip.0.weight"])
    assert encoder.config.feature_channels == tuple(release.encoder_config["map_channels"])
