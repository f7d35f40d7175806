"""AdamW as the engine steps it: never on a non-finite gradient, with an average of the weights beside the moments."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

MOMENTS = ("exp_avg", "exp_avg_sq")
EMA = "average"
"""The moving average of the weights, kept in the optimizer's state and so sharded as the moments are."""


class SkipStepAdamW(torch.optim.AdamW):
    """AdamW whose step leaves everything as it is if a gradient, or the global norm of all, is not finite.

    The decision is made on the device, by the fused kernel that PyTorch has for loss scaling: nobody waits for the
    host. ``skipped`` says afterwards, as a tensor, what was decided.
    """

    def __init__(self, params: Iterable[Any], *, weight_decay: float = 0.01, ema_decay: float = 0.0) -> None:
        super().__init__(params, weight_decay=weight_decay, fused=True)
        self.ema_decay = ema_decay
        self.global_norm: Callable[[], Tensor | float | None] = lambda: None
        """Of all ranks' and groups' gradients, negative or non-finite if one of them is not finite; None: not known.
        An engine that shards gradients steps one group at a time, which alone does not see what the others hold."""
        self.skipped = torch.zeros(())

    @property
    def state_keys(self) -> tuple[str, ...]:
        """Names of what is kept beside each weight."""
        return (*MOMENTS, EMA) if self.ema_decay else MOMENTS

    @torch.no_grad()
    def init_state(self) -> None:
        """Make the state of every parameter that has none: engines look for all of it after the first group's step."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter not in self.state:
                    state = {"step": torch.zeros((), dtype=torch.float32, device=parameter.device)}
                    state |= {name: torch.zeros_like(parameter) for name in MOMENTS}
                    self.state[parameter] = state | ({EMA: parameter.clone()} if self.ema_decay else {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step, or none."""
        self.skipped = self.found_inf = self._not_finite()
        super().step(closure)
        if self.ema_decay:
            self._update_ema()

    def _not_finite(self) -> Tensor:
        """1 if anything is not finite, else 0; float32 as the kernel wants it."""
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        if not gradients:
            return torch.zeros(())
        # One number a gradient: the sum of a tensor is finite only if all of it is (or it overflows, which is as bad).
        sums = torch.stack([gradient.float().abs().sum() for gradient in gradients])
        norm = self.global_norm()
        if norm is not None:
            norm = torch.as_tensor(norm, dtype=torch.float32, device=sums.device)
            sums = torch.cat([sums, torch.where(norm < 0, torch.inf, norm).view(1)])
        return (~torch.isfinite(sums).all()).float()

    def _update_ema(self) -> None:
        """Move the averages towards the weights; fast at first, so that a short run does not keep its start."""
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                state.setdefault(EMA, parameter.clone())
                decay = torch.clamp((1 + state["step"]) / (10 + state["step"]), max=self.ema_decay)
                state[EMA].lerp_(parameter, (1 - decay) * (1 - self.skipped))
