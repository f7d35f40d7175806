from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from encoder.backbone.backbone import Backbone
from encoder.config import OffsetType
from encoder.errors import ModelError
from encoder.model.weight_offsets import (
    OFFSET_TYPES,
    LowRankOffset,
    OffsetPredictor,
    OverparametrizedOffset,
    attention_projections,
    clear_offsets,
    load_offsets,
    merge_offsets,
    save_offsets,
    set_offsets,
    unmerge_offsets,
)


def predict(unet: UNet2DConditionModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    channels, size, width = unet.config.in_channels, unet.config.sample_size, unet.config.cross_attention_dim
    noisy = torch.randn(2, channels, size, size, generator=generator)
    states = torch.randn(2, 7, width, generator=generator)
    return unet(noisy, torch.tensor([10, 900]), states).sample


@pytest.mark.parametrize("form", OFFSET_TYPES)
def test_at_step_0_the_unet_with_offsets_equals_the_base_bit_for_bit(backbone: Backbone, form: OffsetType) -> None:
    base = predict(backbone.unet)
    set_offsets(backbone.unet, OffsetPredictor.for_unet(backbone.unet, form)())
    assert torch.equal(predict(backbone.unet), base)


@pytest.mark.parametrize("shape", [(6, 6), (12, 5), (5, 12), (1, 4), (48, 128)])
def test_the_collapsed_offset_equals_the_dense_one_in_value_and_in_every_gradient(shape: tuple[int, int]) -> None:
    matrix = OverparametrizedOffset(*shape).double()
    for parameter in matrix.parameters():
        torch.nn.init.normal_(parameter)
    weight = torch.randn(*shape, dtype=torch.double)
    u, v = matrix()
    torch.testing.assert_close(u @ v.T, matrix.dense())
    collapsed = torch.autograd.grad(((u @ v.T) * weight).sum(), list(matrix.parameters()))
    dense = torch.autograd.grad((matrix.dense() * weight).sum(), list(matrix.parameters()))
    torch.testing.assert_close(collapsed, dense)


def test_the_offset_has_at_most_rank_3() -> None:
    matrix = OverparametrizedOffset(20, 30)
    torch.nn.init.normal_(matrix.rows.weight)
    torch.nn.init.normal_(matrix.rows.bias)
    assert torch.linalg.matrix_rank(matrix.dense()) <= 3


def test_the_direct_form_can_be_whatever_the_methods_own_form_is() -> None:
    own, direct = OverparametrizedOffset(12, 7), LowRankOffset(12, 7)
    torch.nn.init.normal_(own.rows.weight)
    torch.nn.init.normal_(own.rows.bias)
    u, v = own()
    direct.load_state_dict({"u": u.detach(), "v": v[:, :2].detach()})
    torch.testing.assert_close(torch.matmul(direct()[0], direct()[1].T), own.dense())


def test_the_direct_form_has_3_out_and_2_in_numbers_and_learns_from_the_first_step() -> None:
    offset = LowRankOffset(12, 7)
    assert sum(parameter.numel() for parameter in offset.parameters()) == 3 * 12 + 2 * 7
    u, v = offset()
    (u @ v.T * torch.randn(12, 7)).sum().backward()
    assert offset.u.grad is not None
    assert offset.u.grad.abs().min() > 0


def test_a_blank_takes_on_the_values_of_another(offsets: OffsetPredictor) -> None:
    blank = offsets.meta_copy()
    assert all(parameter.is_meta for parameter in blank.parameters())
    blank.load_state_dict(offsets.state_dict(), assign=True)
    for (u, v), (other_u, other_v) in zip(blank().values(), offsets().values(), strict=True):
        assert torch.equal(u, other_u)
        assert torch.equal(v, other_v)


def test_folded_and_unfolded_unets_agree(backbone: Backbone, offsets: OffsetPredictor) -> None:
    base = predict(backbone.unet)
    set_offsets(backbone.unet, offsets())
    applied = predict(backbone.unet)
    clear_offsets(backbone.unet)
    merge_offsets(backbone.unet, offsets())
    torch.testing.assert_close(predict(backbone.unet), applied, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(applied, base, atol=1e-3)


def test_unfolding_leaves_the_base_bit_identical(backbone: Backbone, offsets: OffsetPredictor) -> None:
    before = {name: parameter.clone() for name, parameter in backbone.unet.named_parameters()}
    unmerge_offsets(backbone.unet, merge_offsets(backbone.unet, offsets()))
    assert all(torch.equal(parameter, before[name]) for name, parameter in backbone.unet.named_parameters())


def test_gradient_checkpointing_recomputes_with_the_offsets(backbone: Backbone, offsets: OffsetPredictor) -> None:
    def gradients() -> list[torch.Tensor]:
        set_offsets(backbone.unet, offsets())
        predict(backbone.unet).pow(2).mean().backward()
        found = [parameter.grad.clone() for parameter in offsets.parameters()]
        offsets.zero_grad()
        return found

    plain = gradients()
    backbone.unet.enable_gradient_checkpointing()
    torch.testing.assert_close(gradients(), plain, rtol=1e-4, atol=1e-6)


def test_offsets_saved_and_loaded_are_the_same(offsets: OffsetPredictor, tmp_path) -> None:  # noqa: ANN001
    save_offsets(offsets(), tmp_path / "offsets.safetensors")
    loaded = load_offsets(tmp_path / "offsets.safetensors")
    for name, (u, v) in offsets().items():
        torch.testing.assert_close(loaded[name][0] @ loaded[name][1].T, u @ v.T)


def test_offsets_of_another_unet_are_refused(backbone: Backbone, offsets: OffsetPredictor) -> None:
    wrong = dict(offsets())
    wrong.popitem()
    with pytest.raises(ModelError, match="another UNet"):
        merge_offsets(backbone.unet, wrong)


def test_every_query_key_and_value_of_every_attention_is_met(backbone: Backbone) -> None:
    layers = sum(1 for module in backbone.unet.modules() if type(module).__name__ == "Attention")
    assert len(attention_projections(backbone.unet)) == 3 * layers


def test_without_offsets_the_unet_is_the_bases_and_folding_changes_nothing(backbone: Backbone, tmp_path: Path) -> None:
    nothing = OffsetPredictor.for_unet(backbone.unet, "none")
    assert not list(nothing.parameters())
    before = {name: tensor.clone() for name, tensor in backbone.unet.state_dict().items()}
    set_offsets(backbone.unet, nothing())
    save_offsets(nothing(), tmp_path / "offsets.safetensors")
    merge_offsets(backbone.unet, load_offsets(tmp_path / "offsets.safetensors"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.unet.state_dict().items())
