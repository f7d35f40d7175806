"""Learning a low-rank change of matrices in place of the matrices (LoRA, Hu et al., arXiv 2106.09685)."""

from types import MethodType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from encoder.concepts.weight_deltas import LowRankDelta


class LoraInjector:
    """Inside the ``with`` block linears compute with W + up down, and up and down can learn; up starts at zero."""

    def __init__(self, linears: dict[str, nn.Linear], rank: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._linears = linears
        self.deltas = {name: _init_factors(linear, rank, generator) for name, linear in linears.items()}

    def __enter__(self) -> "LoraInjector":
        for name, linear in self._linears.items():
            linear.low_rank = self.deltas[name]  # type: ignore[assignment]
            linear.forward = MethodType(_lora_forward, linear)  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        for linear in self._linears.values():
            linear.__dict__.pop("forward", None)
            linear.__dict__.pop("low_rank", None)


def _init_factors(linear: nn.Linear, rank: int, generator: torch.Generator) -> LowRankDelta:
    down = torch.randn(rank, linear.in_features, generator=generator) / linear.in_features**0.5
    up = torch.zeros(linear.out_features, rank)
    return LowRankDelta(*(nn.Parameter(factor.to(linear.weight.device)) for factor in (up, down)))


def _lora_forward(linear: nn.Linear, features: Tensor) -> Tensor:
    up, down = (factor.to(features.dtype) for factor in linear.low_rank)  # type: ignore[union-attr]
    return F.linear(features, linear.weight, linear.bias) + F.linear(F.linear(features, down), up)
