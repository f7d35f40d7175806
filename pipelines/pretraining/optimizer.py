"""AdamW that skips steps with non-finite gradients and can keep an exponential moving average of the weights."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from pipelines.config.pretraining import PretrainConfig

MOMENTS = ("exp_avg", "exp_avg_sq")
EMA = "ema"
"""Key of the moving average in the optimizer state. DeepSpeed shards it in the same way as the moments."""


class SkipStepAdamW(torch.optim.AdamW):
    """AdamW whose step changes nothing if a gradient, or the global gradient norm, is not finite.

    The decision stays on the device: it is passed to PyTorch's fused kernel as ``found_inf``, the tensor that the
    kernel takes for loss scaling. ``step`` itself does not synchronize the host with the device. A skipped step does
    not advance the step counter, so callers compare ``steps_taken`` before and after to see whether one was skipped.
    """

    def __init__(self, params: Iterable[Any], *, weight_decay: float = 0.01, ema_decay: float = 0.0) -> None:
        super().__init__(params, weight_decay=weight_decay, fused=True)
        self.ema_decay = ema_decay
        self.global_norm: Callable[[], Tensor | float | None] = lambda: None
        """Return the norm of all gradients of all ranks, negative or non-finite if one of them is not finite; None if
        it is unknown. An engine that shards gradients steps one parameter group at a time and sets this, because the
        gradients of one group on one rank do not show whether those of the others are finite."""

    @property
    def state_keys(self) -> tuple[str, ...]:
        """Names of the tensors that the optimizer state holds for each weight."""
        return (*MOMENTS, EMA) if self.ema_decay else MOMENTS

    @property
    def steps_taken(self) -> Tensor:
        """Copy of the step counter, which skipped steps do not advance: a scalar on the device of the weights.

        ZeRO-3 hands its shards to the optimizer in the first step only; before that the counter is 0, on the CPU.
        """
        state = next(iter(self.state.values()), None)
        return state["step"].clone() if state else torch.zeros(())

    @torch.no_grad()
    def init_state(self) -> None:
        """Create the state of every parameter that has none.

        DeepSpeed expects the state of all groups to exist after the first group has been stepped.
        """
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter not in self.state:
                    state = {"step": torch.zeros((), dtype=torch.float32, device=parameter.device)}
                    state |= {name: torch.zeros_like(parameter) for name in MOMENTS}
                    self.state[parameter] = state | ({EMA: parameter.clone()} if self.ema_decay else {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update weights, moments and moving average, or leave all of them unchanged."""
        self.found_inf = self._found_inf()
        super().step(closure)
        if self.ema_decay:
            self._update_ema(self.found_inf)

    def _found_inf(self) -> Tensor:
        """Return 1.0 if a gradient or the global norm is not finite, else 0.0; float32, as the fused kernel needs."""
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        if not gradients:
            return torch.zeros(())
        # The sum of absolute values is finite only if every element is (or it overflows, which is as bad).
        sums = torch.stack([gradient.float().abs().sum() for gradient in gradients])
        norm = self.global_norm()
        if norm is not None:
            norm = torch.as_tensor(norm, dtype=torch.float32, device=sums.device)
            sums = torch.cat([sums, torch.where(norm < 0, torch.inf, norm).view(1)])
        return (~torch.isfinite(sums).all()).float()

    def _update_ema(self, skipped: Tensor) -> None:
        """Move the averages towards the weights, unless ``skipped`` is 1.

        The decay grows as (1 + step) / (10 + step) up to ``ema_decay``, so that short runs forget the initial weights.
        """
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                state.setdefault(EMA, parameter.clone())
                decay = torch.clamp((1 + state["step"]) / (10 + state["step"]), max=self.ema_decay)
                state[EMA].lerp_(parameter, (1 - decay) * (1 - skipped))


def learning_rate_factor(config: PretrainConfig, step: int) -> float:
    """Return the factor on the learning rates after ``step`` finished steps: linear warm-up, then the schedule."""
    warmup = min(1.0, (step + 1) / (config.warmup_steps + 1))
    if config.lr_schedule == "constant":
        return warmup
    return warmup * (0.5 + 0.5 * math.cos(math.pi * step / config.max_steps))
