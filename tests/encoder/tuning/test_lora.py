"""LoRA factors and weight offsets act on the same projections without knowing each other."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack

import pytest
import torch
from torch import Tensor, nn

from encoder.backbone.backbone import Backbone
from encoder.model.weight_offsets import OffsetPredictor, applied_offsets, attention_projections
from encoder.tuning.lora import LoraInjector

Context = AbstractContextManager[object]


@pytest.fixture
def projection(backbone: Backbone) -> nn.Linear:
    return next(iter(attention_projections(backbone.unet).values()))


@pytest.fixture
def output(projection: nn.Linear) -> Callable[[], Tensor]:
    features = torch.randn(2, projection.in_features)
    return lambda: projection(features).detach()


@pytest.fixture
def lora(backbone: Backbone) -> LoraInjector:
    """Factors that change the output: ``up`` is not zero."""
    injector = LoraInjector(attention_projections(backbone.unet), rank=2, seed=0)
    for delta in injector.deltas.values():
        nn.init.normal_(delta.up)
    return injector


def test_lora_adds_the_low_rank_product(
    projection: nn.Linear, lora: LoraInjector, output: Callable[[], Tensor]
) -> None:
    before, (up, down) = output(), next(iter(lora.deltas.values()))
    with lora:
        inside = output()
    weight = projection.weight.detach().clone()
    with torch.no_grad():
        projection.weight.add_(up @ down)
        merged = output()
        projection.weight.copy_(weight)
    torch.testing.assert_close(inside, merged)
    assert torch.equal(output(), before)


@pytest.mark.parametrize("lora_first", [True, False])
@pytest.mark.parametrize("removed_first", ["lora", "offsets"])
def test_lora_and_offsets_are_applied_and_removed_in_any_order(
    backbone: Backbone,
    offsets: OffsetPredictor,
    lora: LoraInjector,
    output: Callable[[], Tensor],
    lora_first: bool,
    removed_first: str,
) -> None:
    factors = {name: (u.detach(), v.detach()) for name, (u, v) in offsets().items()}
    contexts: dict[str, Context] = {"lora": lora, "offsets": applied_offsets(backbone.unet, factors)}
    removed_last = next(name for name in contexts if name != removed_first)
    plain = output()
    with lora:
        alone = {"lora": output()}
    with applied_offsets(backbone.unet, factors):
        alone["offsets"] = output()
    stacks = {name: ExitStack() for name in contexts}
    for name in sorted(contexts, reverse=not lora_first):
        stacks[name].enter_context(contexts[name])
    torch.testing.assert_close(output(), alone["offsets"] + alone["lora"] - plain)
    stacks[removed_first].close()
    assert torch.equal(output(), alone[removed_last])
    stacks[removed_last].close()
    assert torch.equal(output(), plain)
