"""The full training state, independent of the number of ranks and of the ZeRO stage."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipelines.pretraining.optimizer import EMA, MOMENTS

Tensors = dict[str, Tensor]
"""Full fp32 tensors on the CPU, by parameter name."""


@dataclass(frozen=True)
class TrainingState:
    """Weights and optimizer state of the trained modules."""

    weights: Tensors
    """The trained weights."""
    moments: dict[str, Tensors]
    """Tensors of the optimizer state by key: ``exp_avg``, ``exp_avg_sq`` and, if ``ema_decay`` is not 0, ``ema``."""
    optimizer_steps: int
    """Number of optimizer steps that changed the weights; skipped steps do not count."""
    loss_scale: float
    """Current loss scale with fp16; 0 before the first step and with other precisions."""

    @classmethod
    def from_model(cls, model: nn.Module) -> "TrainingState":
        """Return the state of an untrained model: its weights, and moments of zero."""
        weights = {name: p.detach().float().cpu().clone() for name, p in model.named_parameters()}
        moments = {key: {name: torch.zeros_like(tensor) for name, tensor in weights.items()} for key in MOMENTS}
        return cls(weights, moments, optimizer_steps=0, loss_scale=0.0)

    @property
    def ema_or_weights(self) -> Tensors:
        """The weights that are validated and released: the moving average if there is one, else the trained weights."""
        return self.moments.get(EMA, self.weights)
