"""Compressions of weight deltas: their size and their error."""

import pytest
import torch

from benchmarks.concept_size import COMPRESSIONS, few_bits, largest, low_rank, measure


@pytest.fixture
def deltas() -> list[torch.Tensor]:
    return [1e-5 * torch.randn(40, 30), 1e-5 * torch.randn(64, 48)]


def test_fewer_bits_give_a_smaller_size_and_a_larger_error(deltas: list[torch.Tensor]) -> None:
    eight, four = measure(deltas, few_bits(8)), measure(deltas, few_bits(4))
    assert four["size"] < eight["size"] < 1
    assert four["error"] > eight["error"] > 0


def test_a_delta_of_low_rank_is_exact_at_that_rank() -> None:
    delta = torch.randn(60, 2) @ torch.randn(2, 50)
    assert measure([delta], low_rank(2))["error"] < 1e-4


def test_keeping_all_entries_has_no_error(deltas: list[torch.Tensor]) -> None:
    assert measure(deltas, largest(1.0))["error"] == 0


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_every_compression_has_a_size_and_an_error(deltas: list[torch.Tensor], name: str) -> None:
    result = measure(deltas, COMPRESSIONS[name])
    assert 0 < result["size"] <= 1
    assert 0 <= result["error"] < 1
