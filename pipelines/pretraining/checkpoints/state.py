"""What training has learned so far, whole: the same on any number of ranks and in any ZeRO stage."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipelines.pretraining.optimizer import EMA, MOMENTS

Tensors = dict[str, Tensor]
"""By the parameter's name; fp32, whole, on the CPU."""


@dataclass(frozen=True)
class TrainingState:
    """Weights and optimizer state."""

    weights: Tensors
    moments: dict[str, Tensors]
    """``exp_avg``, ``exp_avg_sq`` and, if one is kept, ``average``."""
    optimizer_steps: int
    """Optimizer steps taken, without those that were skipped."""
    loss_scale: float
    """Of fp16; 0 if there is none yet."""

    @classmethod
    def from_model(cls, model: nn.Module) -> "TrainingState":
        """Of a model that has not been trained."""
        weights = {name: p.detach().float().cpu().clone() for name, p in model.named_parameters()}
        moments = {key: {name: torch.zeros_like(tensor) for name, tensor in weights.items()} for key in MOMENTS}
        return cls(weights, moments, optimizer_steps=0, loss_scale=0.0)

    @property
    def ema_or_weights(self) -> Tensors:
        """What is shown and released: the average if one is kept, else the weights."""
        return self.moments.get(EMA, self.weights)
