"""LoRA weights of diffusers, PEFT and kohya's trainer arrive with their scales, or are refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from encoder.concepts.diffusers_io import from_diffusers
from encoder.concepts.lora_files import read_lora
from encoder.concepts.weight_deltas import WeightDelta, to_dense
from encoder.errors import ModelError

BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"
RANK = 4
UNET_LAYERS = {
    f"{BLOCK}.attn1.to_q": (32, 32),
    f"{BLOCK}.attn2.to_out.0": (32, 32),
    f"{BLOCK}.ff.net.0.proj": (256, 32),
    f"{BLOCK}.ff.net.2": (32, 128),
    "down_blocks.0.attentions.0.proj_in": (32, 32, 1, 1),
}
TEXT_LAYERS = {
    "text_model.encoder.layers.0.self_attn.q_proj": (24, 24),
    "text_model.encoder.layers.0.mlp.fc1": (96, 24),
}


def factors(shape: tuple[int, ...], seed: int) -> tuple[Tensor, Tensor]:
    """Return random factors (out, r, ...) and (r, in, ...) of a layer's delta."""
    generator = torch.Generator().manual_seed(seed)
    ones = (1,) * (len(shape) - 2)
    return torch.randn(shape[0], RANK, *ones, generator=generator), torch.randn(RANK, *shape[1:], generator=generator)


def product(shape: tuple[int, ...], seed: int, scale: float) -> Tensor:
    up, down = factors(shape, seed)
    return (up.flatten(1) @ down.flatten(1)).view(shape) * scale


def kohya(alpha: float | None) -> dict[str, Tensor]:
    """Weights in the layout of kohya's trainer, with the same alpha for every layer."""
    tensors = {}
    for prefix, layers in (("lora_unet_", UNET_LAYERS), ("lora_te_", TEXT_LAYERS)):
        for seed, (name, shape) in enumerate(layers.items()):
            key = prefix + name.replace(".", "_")
            tensors[f"{key}.lora_up.weight"], tensors[f"{key}.lora_down.weight"] = factors(shape, seed)
            if alpha is not None:
                tensors[f"{key}.alpha"] = torch.tensor(alpha)
    return tensors


def peft() -> dict[str, Tensor]:
    """Weights in the layout of diffusers, which PEFT reads."""
    tensors = {}
    for prefix, layers in (("unet.", UNET_LAYERS), ("text_encoder.", TEXT_LAYERS)):
        for seed, (name, shape) in enumerate(layers.items()):
            tensors[f"{prefix}{name}.lora_B.weight"], tensors[f"{prefix}{name}.lora_A.weight"] = factors(shape, seed)
    return tensors


def check(path: Path, scale: float) -> None:
    """Check that a file holds the deltas of all layers, scaled alike."""
    deltas = read_lora(path)
    assert deltas.keys() == {"unet", "text_encoder"}
    for part, layers in (("unet", UNET_LAYERS), ("text_encoder", TEXT_LAYERS)):
        assert deltas[part].keys() == {f"{name}.weight" for name in layers}
        for seed, (name, shape) in enumerate(layers.items()):
            check_layer(deltas[part][f"{name}.weight"], shape, seed, scale)


def check_layer(delta: WeightDelta, shape: tuple[int, ...], seed: int, scale: float) -> None:
    torch.testing.assert_close(
        to_dense(delta, torch.Size(shape)), product(shape, seed, scale), rtol=5e-3, atol=5e-3 * max(scale, 1)
    )


@pytest.mark.parametrize(("alpha", "scale"), [(1.0, 0.25), (4.0, 1.0), (8.0, 2.0), (None, 1.0)])
def test_kohya_weights_of_every_kind_of_layer_have_their_alpha(
    tmp_path: Path, alpha: float | None, scale: float
) -> None:
    save_file(kohya(alpha), tmp_path / "my lora-000010.safetensors")
    check(tmp_path / "my lora-000010.safetensors", scale)


@pytest.mark.parametrize(("settings", "scale"), [({}, 1.0), ({"lora_alpha": 1}, 0.25),
    ({"lora_alpha": 8, "use_rslora": True}, 4.0), ({"lora_alpha": 4, "alpha_pattern": {".*": 2}}, 0.5)])  # fmt: skip
def test_weights_in_the_layout_of_peft_have_the_alpha_of_its_settings(
    tmp_path: Path, settings: dict[str, object], scale: float
) -> None:
    path = tmp_path / "pytorch_lora_weights.safetensors"
    recorded = {f"{part}.{name}": value for part in ("unet", "text_encoder") for name, value in settings.items()}
    save_file(peft(), path, {"lora_adapter_metadata": json.dumps(recorded)} if recorded else {})
    check(path, scale)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lora_unet_x.dora_scale": torch.ones(1)}, "was trained with DoRA"),
        ({"lora_unet_x.hada_w1_a": torch.ones(1)}, "was trained with LoHa"),
        ({"lora_unet_x.lokr_w1": torch.ones(1)}, "was trained with LoKr"),
    ],
)
def test_other_methods_than_lora_are_refused_by_name(tmp_path: Path, change: dict[str, Tensor], message: str) -> None:
    save_file(kohya(1.0) | change, tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match=f"x.safetensors {message}"):
        from_diffusers(tmp_path, release="test")


@pytest.mark.parametrize(
    ("removed", "added", "message"),
    [
        (f"unet.{BLOCK}.attn1.to_q.lora_B.weight", {}, "has no lora_B.weight; get it again"),
        (f"unet.{BLOCK}.attn1.to_q.lora_A.weight", {}, "which is not a low-rank weight of a layer"),
        (None, {f"unet.{BLOCK}.attn1.to_q.lora_B.bias": torch.ones(32)}, "which is not a low-rank weight of a layer"),
        (None, {"transformer.x.lora_A.weight": torch.ones(2)}, "belongs to no UNet or text encoder"),
        (None, {"unet.conv_in.weight": torch.ones(2)}, "which is not a low-rank weight of a layer"),
    ],
)
def test_a_file_with_anything_that_is_not_understood_is_refused(
    tmp_path: Path, removed: str | None, added: dict[str, Tensor], message: str
) -> None:
    save_file(
        {name: tensor for name, tensor in (peft() | added).items() if name != removed}, tmp_path / "x.safetensors"
    )
    with pytest.raises(ModelError, match=message):
        from_diffusers(tmp_path, release="test")


def test_an_alpha_without_its_layer_is_refused(tmp_path: Path) -> None:
    tensors = kohya(1.0)
    tensors = {name: tensor for name, tensor in tensors.items() if "to_q.lora" not in name.replace("_q.", "to_q.")}
    tensors["lora_unet_nowhere.alpha"] = torch.tensor(1.0)
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(ModelError):
        from_diffusers(tmp_path, release="test")


def test_a_folder_with_two_lora_files_is_refused_and_a_file_is_taken(tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        save_file(kohya(1.0), tmp_path / name)
    with pytest.raises(ModelError, match="holds a.safetensors and b.safetensors; give one of the files"):
        from_diffusers(tmp_path, release="test")
    assert from_diffusers(tmp_path / "b.safetensors", release="test").weight_deltas.keys() == {"unet", "text_encoder"}


def test_a_learned_token_of_several_vectors_is_refused(tmp_path: Path) -> None:
    save_file({"<cat>": torch.ones(3, 8)}, tmp_path / "learned_embeds.safetensors")
    with pytest.raises(ModelError, match=r"several vectors, \(3, 8\); a concept has one"):
        from_diffusers(tmp_path, release="test")
