import torch
from torch import nn

from pipelines.planning.fake_execution import fake_tensors, measure_cost, module_bytes, num_parameters


def test_the_peak_is_the_most_that_was_held_at_once() -> None:
    def work() -> None:
        kept = torch.zeros(1000)
        for _ in range(3):
            gone = kept + 1
            del gone

    with fake_tensors():
        assert measure_cost(work).peak_bytes == 2 * 4000


def test_a_view_takes_nothing() -> None:
    with fake_tensors():
        assert measure_cost(lambda: torch.zeros(1000).view(10, 100).T).peak_bytes == 4000


def test_what_was_there_before_is_not_counted_again() -> None:
    with fake_tensors():
        weight = torch.zeros(1000, 10)
        assert measure_cost(lambda: weight.T).peak_bytes == 0


def test_operations_are_those_of_a_product_and_its_gradients() -> None:
    with fake_tensors():
        layer = nn.Linear(30, 20, bias=False)
        batch = torch.zeros(8, 30, requires_grad=True)
        assert measure_cost(lambda: layer(batch).sum().backward()).flops == 3 * 2 * 8 * 30 * 20


def test_activations_are_kept_for_the_backward_pass_and_freed_by_it() -> None:
    with fake_tensors():
        layers = nn.Sequential(*[nn.Linear(100, 100) for _ in range(4)])
        with torch.no_grad():
            looking = measure_cost(lambda: layers(torch.zeros(1000, 100)))
        learning = measure_cost(lambda: layers(torch.zeros(1000, 100)).sum().backward())
    assert learning.peak_bytes > 1.5 * looking.peak_bytes


def test_no_memory_is_touched() -> None:
    with fake_tensors():
        assert module_bytes(nn.Linear(100_000, 100_000)) == 4 * (10**10 + 10**5)  # 40 GB


def test_parameters_are_counted() -> None:
    assert num_parameters(nn.Linear(3, 5)) == 20
