import pytest
import torch

from benchmarks.concept_size import WAYS, few_bits, judged, largest, low_rank


@pytest.fixture
def changes() -> list[torch.Tensor]:
    return [1e-5 * torch.randn(40, 30), 1e-5 * torch.randn(64, 48)]


def test_fewer_bits_are_smaller_and_further_away(changes: list[torch.Tensor]) -> None:
    eight, four = judged(changes, few_bits(8)), judged(changes, few_bits(4))
    assert four["size"] < eight["size"] < 1
    assert four["error"] > eight["error"] > 0


def test_a_change_of_low_rank_is_kept_whole_by_that_rank() -> None:
    change = torch.randn(60, 2) @ torch.randn(2, 50)
    assert judged([change], low_rank(2))["error"] < 1e-4


def test_all_entries_are_everything(changes: list[torch.Tensor]) -> None:
    assert judged(changes, largest(1.0))["error"] == 0


@pytest.mark.parametrize("way", WAYS)
def test_every_way_has_a_size_and_an_error(changes: list[torch.Tensor], way: str) -> None:
    found = judged(changes, WAYS[way])
    assert 0 < found["size"] <= 1
    assert 0 <= found["error"] < 1
