import torch
from torch import nn

from pipelines.planning.fake_execution import fake_tensors, measure_cost, module_bytes, num_parameters


def test_peak_bytes_is_the_largest_amount_allocated_at_one_time() -> None:
    def allocate() -> None:
        base = torch.zeros(1000)
        for _ in range(3):
            temporary = base + 1
            del temporary

    with fake_tensors():
        assert measure_cost(allocate).peak_bytes == 2 * 4000


def test_a_view_allocates_no_memory() -> None:
    with fake_tensors():
        assert measure_cost(lambda: torch.zeros(1000).view(10, 100).T).peak_bytes == 4000


def test_tensors_created_before_the_measurement_are_not_counted() -> None:
    with fake_tensors():
        weight = torch.zeros(1000, 10)
        assert measure_cost(lambda: weight.T).peak_bytes == 0


def test_flops_count_a_matrix_product_and_its_gradients() -> None:
    with fake_tensors():
        layer = nn.Linear(30, 20, bias=False)
        batch = torch.zeros(8, 30, requires_grad=True)
        assert measure_cost(lambda: layer(batch).sum().backward()).flops == 3 * 2 * 8 * 30 * 20


def test_activations_are_held_until_the_backward_pass_frees_them() -> None:
    with fake_tensors():
        layers = nn.Sequential(*[nn.Linear(100, 100) for _ in range(4)])
        with torch.no_grad():
            inference = measure_cost(lambda: layers(torch.zeros(1000, 100)))
        training = measure_cost(lambda: layers(torch.zeros(1000, 100)).sum().backward())
    assert training.peak_bytes > 1.5 * inference.peak_bytes


def test_fake_modules_allocate_no_real_memory() -> None:
    with fake_tensors():
        assert module_bytes(nn.Linear(100_000, 100_000)) == 4 * (10**10 + 10**5)  # 40 GB


def test_num_parameters_counts_weights_and_biases() -> None:
    assert num_parameters(nn.Linear(3, 5)) == 20
