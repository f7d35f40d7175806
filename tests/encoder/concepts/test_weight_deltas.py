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
@pytest.mark.parametrize(("bits", "max_error"), [(8, 0.5 / 127), (4, 0.5 / 7)])
def test_the_rounding_error_is_at_most_half_a_quantization_step(
    shape: tuple[int, ...], bits: int, max_error: float
) -> None:
    delta = 1e-5 * torch.randn(*shape)
    error = (to_dense(quantize(delta, bits), delta.shape) - delta).flatten(1).abs()
    assert (error <= 1.001 * max_error * delta.flatten(1).abs().amax(dim=1, keepdim=True)).all()


def test_two_4_bit_numbers_share_a_byte() -> None:
    assert quantize(torch.randn(6, 9), 4).values.shape == (6, 5)


def test_a_zero_delta_stays_zero() -> None:
    assert not to_dense(quantize(torch.zeros(3, 4), 4), torch.Size((3, 4))).any()


def test_the_error_is_relative_to_the_norm_of_the_deltas() -> None:
    quantizer, delta = DeltaQuantizer(4), torch.randn(20, 20)
    quantized = quantizer(delta)
    assert quantizer.relative_error == pytest.approx(
        float((to_dense(quantized, delta.shape) - delta).norm() / delta.norm())
    )


def test_vectors_keep_16_bits() -> None:
    quantized = DeltaQuantizer(4)(torch.randn(7))
    assert isinstance(quantized, torch.Tensor)
    assert quantized.dtype == torch.float16


def test_deltas_of_every_kind_survive_a_file() -> None:
    low_rank, four_bit = LowRankDelta(torch.randn(4, 2), torch.randn(2, 3)), quantize(torch.randn(4, 3), 4)
    back = from_tensors(to_tensors("a", torch.ones(2)) | to_tensors("b", low_rank) | to_tensors("c", four_bit))
    assert torch.equal(back["a"], torch.ones(2))
    assert isinstance(back["b"], LowRankDelta)
    assert isinstance(back["c"], QuantizedDelta)
    for delta, again in ((low_rank, back["b"]), (four_bit, back["c"])):
        assert torch.equal(to_dense(again, torch.Size((4, 3))), to_dense(delta, torch.Size((4, 3))))
