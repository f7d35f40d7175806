"""AdamW that never steps on what is not finite, and the average of the weights beside its moments."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pipelines.pretraining.optimizer import EMA, MOMENTS, SkipStepAdamW

RATES = (1e-2, 3e-3)


def parameters() -> list[nn.Parameter]:
    torch.manual_seed(3)
    return [nn.Parameter(torch.randn(shape)) for shape in ((4, 3), (5,), (2, 2, 2))]


def groups(weights: list[nn.Parameter]) -> list[dict]:
    return [{"params": weights[:1], "lr": RATES[0]}, {"params": weights[1:], "lr": RATES[1]}]


def give_gradients(weights: list[nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for weight in weights:
        weight.grad = torch.randn(weight.shape, generator=generator)


def stepped(average_decay: float = 0.0) -> tuple[list[nn.Parameter], SkipStepAdamW]:
    """Weights, and an optimizer that has made three good steps."""
    weights = parameters()
    optimizer = SkipStepAdamW(groups(weights), ema_decay=average_decay)
    optimizer.init_state()
    for seed in range(3):
        give_gradients(weights, seed)
        optimizer.step()
    return weights, optimizer


def everything(weights: list[nn.Parameter], optimizer: SkipStepAdamW) -> list[Tensor]:
    kept = [tensor for weight in weights for _, tensor in sorted(optimizer.state[weight].items())]
    return copy.deepcopy([weight.detach() for weight in weights] + kept)


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_on_finite_gradients_it_is_adamw_bit_for_bit() -> None:
    weights, plain = parameters(), parameters()
    optimizer = SkipStepAdamW(groups(weights), weight_decay=0.05)
    reference = torch.optim.AdamW(groups(plain), weight_decay=0.05, fused=True)
    for seed in range(20):
        for each, parts in ((optimizer, weights), (reference, plain)):
            give_gradients(parts, seed)
            each.step()
    assert all(torch.equal(a, b) for a, b in zip(weights, plain, strict=True))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("position", [0, 1, 2])
def test_one_number_that_is_not_finite_leaves_everything_as_it_was(bad: float, position: int) -> None:
    weights, optimizer = stepped(average_decay=0.9)
    before = everything(weights, optimizer)
    give_gradients(weights, 7)
    weights[position].grad.view(-1)[-1] = bad
    optimizer.step()
    assert same(everything(weights, optimizer), before)


@pytest.mark.parametrize("norm", [-1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("as_given", [float, torch.tensor], ids=["number", "tensor"])
def test_a_norm_that_is_not_finite_elsewhere_leaves_everything_as_it_was(norm: float, as_given: Callable) -> None:
    weights, optimizer = stepped(average_decay=0.9)
    before = everything(weights, optimizer)
    optimizer.global_norm = lambda: as_given(norm)
    give_gradients(weights, 7)
    optimizer.step()
    assert same(everything(weights, optimizer), before)


def test_a_good_norm_changes_nothing_of_a_step() -> None:
    (weights, optimizer), (others, reference) = stepped(), stepped()
    optimizer.global_norm = lambda: 0.0
    for each, parts in ((optimizer, weights), (reference, others)):
        give_gradients(parts, 7)
        each.step()
    assert same(everything(weights, optimizer), everything(others, reference))


def test_a_step_after_a_skipped_one_is_as_if_that_had_never_been() -> None:
    (weights, optimizer), (others, reference) = stepped(), stepped()
    give_gradients(weights, 7)
    weights[1].grad[0] = float("nan")
    optimizer.step()
    for each, parts in ((optimizer, weights), (reference, others)):
        give_gradients(parts, 8)
        each.step()
    assert same(everything(weights, optimizer), everything(others, reference))


def test_it_says_of_the_last_step_whether_it_was_skipped() -> None:
    weights, optimizer = stepped()
    said = []
    for bad in (False, True, False):
        give_gradients(weights, 7)
        if bad:
            weights[2].grad[0, 0, 0] = float("inf")
        optimizer.step()
        said.append(bool(optimizer.skipped))
    assert said == [False, True, False]


def test_the_average_follows_fast_at_first_and_then_with_its_decay() -> None:
    weights = parameters()
    optimizer = SkipStepAdamW(groups(weights), ema_decay=0.5)
    optimizer.init_state()
    expected = weights[0].detach().double().clone()
    for step in range(1, 21):
        give_gradients(weights, step)
        optimizer.step()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weights[0].detach().double()
        assert torch.allclose(optimizer.state[weights[0]][EMA].double(), expected, atol=1e-6)


def test_without_a_decay_no_average_is_kept() -> None:
    weights, optimizer = stepped()
    assert optimizer.state_keys == MOMENTS
    assert all(EMA not in optimizer.state[weight] for weight in weights)


def test_beginning_makes_the_state_of_every_weight() -> None:
    weights = parameters()
    optimizer = SkipStepAdamW(groups(weights), ema_decay=0.9)
    optimizer.init_state()
    for weight in weights:
        state = optimizer.state[weight]
        assert set(state) == {"step", *optimizer.state_keys}
        assert state["step"] == 0
        assert not any(state[name].any() for name in MOMENTS)
        assert torch.equal(state[EMA], weight)
        assert state[EMA].data_ptr() != weight.data_ptr()


def test_beginning_again_keeps_what_is_there() -> None:
    weights, optimizer = stepped(average_decay=0.9)
    before = everything(weights, optimizer)
    optimizer.init_state()
    assert same(everything(weights, optimizer), before)
