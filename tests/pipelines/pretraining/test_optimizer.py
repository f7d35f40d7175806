"""SkipStepAdamW skips steps with non-finite gradients, and keeps a moving average of the weights."""

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


def after_three_steps(ema_decay: float = 0.0) -> tuple[list[nn.Parameter], SkipStepAdamW]:
    """Return weights and an optimizer that has taken three steps with finite gradients."""
    weights = parameters()
    optimizer = SkipStepAdamW(groups(weights), ema_decay=ema_decay)
    optimizer.init_state()
    for seed in range(3):
        give_gradients(weights, seed)
        optimizer.step()
    return weights, optimizer


def all_tensors(weights: list[nn.Parameter], optimizer: SkipStepAdamW) -> list[Tensor]:
    kept = [tensor for weight in weights for _, tensor in sorted(optimizer.state[weight].items())]
    return copy.deepcopy([weight.detach() for weight in weights] + kept)


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_finite_gradients_give_the_same_bits_as_adamw() -> None:
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
def test_one_non_finite_gradient_element_changes_nothing(bad: float, position: int) -> None:
    weights, optimizer = after_three_steps(ema_decay=0.9)
    before = all_tensors(weights, optimizer)
    give_gradients(weights, 7)
    weights[position].grad.view(-1)[-1] = bad
    optimizer.step()
    assert same(all_tensors(weights, optimizer), before)


@pytest.mark.parametrize("norm", [-1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("as_type", [float, torch.tensor], ids=["number", "tensor"])
def test_a_non_finite_global_norm_changes_nothing(norm: float, as_type: Callable) -> None:
    weights, optimizer = after_three_steps(ema_decay=0.9)
    before = all_tensors(weights, optimizer)
    optimizer.global_norm = lambda: as_type(norm)
    give_gradients(weights, 7)
    optimizer.step()
    assert same(all_tensors(weights, optimizer), before)


def test_a_finite_global_norm_does_not_affect_a_step() -> None:
    (weights, optimizer), (others, reference) = after_three_steps(), after_three_steps()
    optimizer.global_norm = lambda: 0.0
    for each, parts in ((optimizer, weights), (reference, others)):
        give_gradients(parts, 7)
        each.step()
    assert same(all_tensors(weights, optimizer), all_tensors(others, reference))


def test_a_skipped_step_has_no_effect_on_later_steps() -> None:
    (weights, optimizer), (others, reference) = after_three_steps(), after_three_steps()
    give_gradients(weights, 7)
    weights[1].grad[0] = float("nan")
    optimizer.step()
    for each, parts in ((optimizer, weights), (reference, others)):
        give_gradients(parts, 8)
        each.step()
    assert same(all_tensors(weights, optimizer), all_tensors(others, reference))


def test_the_step_counter_shows_whether_a_step_was_skipped() -> None:
    weights, optimizer = after_three_steps()
    skipped = []
    for bad in (False, True, False):
        give_gradients(weights, 7)
        if bad:
            weights[2].grad[0, 0, 0] = float("inf")
        steps_before = optimizer.steps_taken
        optimizer.step()
        skipped.append(bool(optimizer.steps_taken == steps_before))
    assert skipped == [False, True, False]


def test_the_decay_of_the_moving_average_grows_to_its_final_value() -> None:
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


def test_without_ema_decay_no_moving_average_is_kept() -> None:
    weights, optimizer = after_three_steps()
    assert optimizer.state_keys == MOMENTS
    assert all(EMA not in optimizer.state[weight] for weight in weights)


def test_init_state_creates_the_state_of_every_weight() -> None:
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


def test_init_state_keeps_existing_state() -> None:
    weights, optimizer = after_three_steps(ema_decay=0.9)
    before = all_tensors(weights, optimizer)
    optimizer.init_state()
    assert same(all_tensors(weights, optimizer), before)
