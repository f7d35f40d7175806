import pytest
import torch

from encoder.concepts.weight_deltas import (
    DeltaQuantizer,
    LowRankDelta,
    QuantizedDelta,
    from_tensors,
    quantize,
    to_dense,
    to_tensors,
)


@pytest.mark.parametrize("shape", [(5, 8), (5, 7), (4, 3, 3, 3)])
@pytest.mark.parametrize(("bits", "worst"), [(8, 0.5 / 127), (4, 0.5 / 7)])
def test_rounding_is_wrong_by_half_a_step_at_most(shape: tuple[int, ...], bits: int, worst: float) -> None:
    change = 1e-5 * torch.randn(*shape)
    wrong = (to_dense(quantize(change, bits), change.shape) - change).flatten(1).abs()
    assert (wrong <= 1.001 * worst * change.flatten(1).abs().amax(dim=1, keepdim=True)).all()


def test_two_numbers_of_4_bits_share_a_byte() -> None:
    assert quantize(torch.randn(6, 9), 4).values.shape == (6, 5)


def test_nothing_learned_stays_nothing() -> None:
    assert not to_dense(quantize(torch.zeros(3, 4), 4), torch.Size((3, 4))).any()


def test_the_error_is_relative_to_everything_learned() -> None:
    rounding, change = DeltaQuantizer(4), torch.randn(20, 20)
    kept = rounding(change)
    assert rounding.relative_error == pytest.approx(
        float((to_dense(kept, change.shape) - change).norm() / change.norm())
    )


def test_vectors_keep_16_bits() -> None:
    kept = DeltaQuantizer(4)(torch.randn(7))
    assert isinstance(kept, torch.Tensor)
    assert kept.dtype == torch.float16


def test_changes_of_every_kind_come_back_from_a_file() -> None:
    low_rank, few_bits = LowRankDelta(torch.randn(4, 2), torch.randn(2, 3)), quantize(torch.randn(4, 3), 4)
    back = from_tensors(to_tensors("a", torch.ones(2)) | to_tensors("b", low_rank) | to_tensors("c", few_bits))
    assert torch.equal(back["a"], torch.ones(2))
    assert isinstance(back["b"], LowRankDelta)
    assert isinstance(back["c"], QuantizedDelta)
    for kept, again in ((low_rank, back["b"]), (few_bits, back["c"])):
        assert torch.equal(to_dense(again, torch.Size((4, 3))), to_dense(kept, torch.Size((4, 3))))
