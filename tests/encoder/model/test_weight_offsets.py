"""Weight offsets: their two forms, and how they are applied to a UNet, merged into it and stored."""

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
    applied_offsets,
    attention_projections,
    load_offsets,
    merge_offsets,
    offset_scope,
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


@pytest.mark.parametrize("offset_type", OFFSET_TYPES)
def test_at_step_0_the_unet_with_offsets_equals_the_base_bit_for_bit(
    backbone: Backbone, offset_type: OffsetType
) -> None:
    """Conformance check 1 (docs/conformance.md)."""
    base = predict(backbone.unet)
    set_offsets(backbone.unet, OffsetPredictor.for_unet(backbone.unet, offset_type)())
    assert torch.equal(predict(backbone.unet), base)


@pytest.mark.parametrize("shape", [(6, 6), (12, 5), (5, 12), (1, 4), (48, 128)])
def test_the_factors_equal_the_dense_offset_in_value_and_in_every_gradient(shape: tuple[int, int]) -> None:
    """Conformance check 3 (docs/conformance.md)."""
    offset = OverparametrizedOffset(*shape).double()
    for parameter in offset.parameters():
        torch.nn.init.normal_(parameter)
    weight = torch.randn(*shape, dtype=torch.double)
    u, v = offset()
    torch.testing.assert_close(u @ v.T, offset.dense())
    factored = torch.autograd.grad(((u @ v.T) * weight).sum(), list(offset.parameters()))
    dense = torch.autograd.grad((offset.dense() * weight).sum(), list(offset.parameters()))
    torch.testing.assert_close(factored, dense)


def test_an_offset_has_at_most_rank_3() -> None:
    """Conformance check 3 (docs/conformance.md)."""
    offset = OverparametrizedOffset(20, 30)
    torch.nn.init.normal_(offset.rows.weight)
    torch.nn.init.normal_(offset.rows.bias)
    assert torch.linalg.matrix_rank(offset.dense()) <= 3


def test_the_low_rank_form_represents_every_overparametrized_offset() -> None:
    overparametrized, low_rank = OverparametrizedOffset(12, 7), LowRankOffset(12, 7)
    torch.nn.init.normal_(overparametrized.rows.weight)
    torch.nn.init.normal_(overparametrized.rows.bias)
    u, v = overparametrized()
    low_rank.load_state_dict({"u": u.detach(), "v": v[:, :2].detach()})
    torch.testing.assert_close(torch.matmul(low_rank()[0], low_rank()[1].T), overparametrized.dense())


def test_the_low_rank_form_has_3_out_and_2_in_parameters_with_gradients_at_the_first_step() -> None:
    offset = LowRankOffset(12, 7)
    assert sum(parameter.numel() for parameter in offset.parameters()) == 3 * 12 + 2 * 7
    u, v = offset()
    (u @ v.T * torch.randn(12, 7)).sum().backward()
    assert offset.u.grad is not None
    assert offset.u.grad.abs().min() > 0


def test_a_meta_copy_takes_the_values_of_another_predictor(offsets: OffsetPredictor) -> None:
    copy = offsets.meta_copy()
    assert all(parameter.is_meta for parameter in copy.parameters())
    copy.load_state_dict(offsets.state_dict(), assign=True)
    for (u, v), (other_u, other_v) in zip(copy().values(), offsets().values(), strict=True):
        assert torch.equal(u, other_u)
        assert torch.equal(v, other_v)


def test_merged_offsets_equal_applied_offsets(backbone: Backbone, offsets: OffsetPredictor) -> None:
    """Conformance check 4 (docs/conformance.md)."""
    base = predict(backbone.unet)
    with applied_offsets(backbone.unet, offsets()):
        applied = predict(backbone.unet)
    merge_offsets(backbone.unet, offsets())
    torch.testing.assert_close(predict(backbone.unet), applied, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(applied, base, atol=1e-3)


def test_unmerging_leaves_the_base_bit_identical(backbone: Backbone, offsets: OffsetPredictor) -> None:
    before = {name: parameter.clone() for name, parameter in backbone.unet.named_parameters()}
    unmerge_offsets(backbone.unet, merge_offsets(backbone.unet, offsets()))
    assert all(torch.equal(parameter, before[name]) for name, parameter in backbone.unet.named_parameters())


def test_offsets_are_gone_after_the_block_even_if_it_raises(backbone: Backbone, offsets: OffsetPredictor) -> None:
    base = predict(backbone.unet)
    with pytest.raises(ZeroDivisionError), applied_offsets(backbone.unet, offsets()):
        assert not torch.equal(predict(backbone.unet), base)
        raise ZeroDivisionError
    assert torch.equal(predict(backbone.unet), base)
    assert not any("offset_weight" in linear.__dict__ for linear in attention_projections(backbone.unet).values())


def test_a_nested_block_restores_the_offsets_of_the_outer_one(backbone: Backbone, offsets: OffsetPredictor) -> None:
    other = {name: (2 * u, v) for name, (u, v) in offsets().items()}
    with applied_offsets(backbone.unet, offsets()):
        outer = predict(backbone.unet)
        with applied_offsets(backbone.unet, other):
            assert not torch.equal(predict(backbone.unet), outer)
        assert torch.equal(predict(backbone.unet), outer)


def test_a_scope_removes_the_offsets_that_are_set_inside(backbone: Backbone, offsets: OffsetPredictor) -> None:
    base = predict(backbone.unet)
    with offset_scope(backbone.unet):
        set_offsets(backbone.unet, offsets())
        assert not torch.equal(predict(backbone.unet), base)
    assert torch.equal(predict(backbone.unet), base)


def test_gradient_checkpointing_recomputes_with_the_offsets(backbone: Backbone, offsets: OffsetPredictor) -> None:
    def gradients() -> list[torch.Tensor]:
        with applied_offsets(backbone.unet, offsets()):
            predict(backbone.unet).pow(2).mean().backward()
        grads = [parameter.grad.clone() for parameter in offsets.parameters()]
        offsets.zero_grad()
        return grads

    plain = gradients()
    backbone.unet.enable_gradient_checkpointing()
    torch.testing.assert_close(gradients(), plain, rtol=1e-4, atol=1e-6)


def test_saved_offsets_load_unchanged(offsets: OffsetPredictor, tmp_path: Path) -> None:
    save_offsets(offsets(), tmp_path / "offsets.safetensors")
    loaded = load_offsets(tmp_path / "offsets.safetensors")
    for name, (u, v) in offsets().items():
        torch.testing.assert_close(loaded[name][0] @ loaded[name][1].T, u @ v.T)


def test_offsets_of_another_unet_are_refused(backbone: Backbone, offsets: OffsetPredictor) -> None:
    wrong = dict(offsets())
    wrong.popitem()
    with pytest.raises(ModelError, match="another UNet"):
        merge_offsets(backbone.unet, wrong)


def test_every_query_key_and_value_of_every_attention_has_an_offset(backbone: Backbone) -> None:
    layers = sum(1 for module in backbone.unet.modules() if type(module).__name__ == "Attention")
    assert len(attention_projections(backbone.unet)) == 3 * layers


def test_offset_type_none_leaves_the_unet_unchanged(backbone: Backbone, tmp_path: Path) -> None:
    none = OffsetPredictor.for_unet(backbone.unet, "none")
    assert not list(none.parameters())
    before = {name: tensor.clone() for name, tensor in backbone.unet.state_dict().items()}
    set_offsets(backbone.unet, none())
    save_offsets(none(), tmp_path / "offsets.safetensors")
    merge_offsets(backbone.unet, load_offsets(tmp_path / "offsets.safetensors"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.unet.state_dict().items())
