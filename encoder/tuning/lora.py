"""Low-rank adaptation: train two thin factors per matrix in place of the matrix (LoRA, Hu et al., arXiv 2106.09685)."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from encoder.concepts.weight_deltas import LowRankDelta


class LoraInjector:
    """Inside the ``with`` block, linear layers compute with W + up down. ``up`` starts at zero.

    The low-rank term is added by a forward hook, so the layer's own ``forward`` stays free for weight offsets: both can
    be applied and removed in any order.
    """

    def __init__(self, linears: dict[str, nn.Linear], rank: int, seed: int) -> None:
        """Create trainable factors of rank ``rank`` for each linear layer, by name."""
        generator = torch.Generator().manual_seed(seed)
        self._linears = linears
        self._hooks: list[RemovableHandle] = []
        self.deltas = {name: _init_factors(linear, rank, generator) for name, linear in linears.items()}

    def __enter__(self) -> "LoraInjector":
        for name, linear in self._linears.items():
            self._hooks.append(linear.register_forward_hook(partial(_add_low_rank, self.deltas[name])))
        return self

    def __exit__(self, *_: object) -> None:
        while self._hooks:
            self._hooks.pop().remove()


def _init_factors(linear: nn.Linear, rank: int, generator: torch.Generator) -> LowRankDelta:
    down = torch.randn(rank, linear.in_features, generator=generator) / linear.in_features**0.5
    up = torch.zeros(linear.out_features, rank)
    return LowRankDelta(*(nn.Parameter(factor.to(linear.weight.device)) for factor in (up, down)))


def _add_low_rank(delta: LowRankDelta, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    [features] = inputs
    up, down = (factor.to(features.dtype) for factor in delta)
    return output + F.linear(F.linear(features, down), up)
