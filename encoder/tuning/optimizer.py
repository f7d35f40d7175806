"""AdamW inside the backward pass: each parameter is updated when its gradient is complete, which is then freed."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.utils.hooks import RemovableHandle

from e4t_errors import ConfigError
from encoder.config import OptimizerName


class InBackwardAdamW:
    """AdamW for a single parameter.

    For a parameter in low precision, the rounding error of the last update is kept in a residual of the same precision
    (Kahan summation). Parameter and residual in bfloat16 together hold 16 significant bits where float32 holds 24:
    enough that no update is lost, for half the memory of a float32 copy.
    """

    def __init__(self, parameter: Tensor, learning_rate: float, optimizer: OptimizerName) -> None:
        self.parameter = parameter
        is_fp32 = parameter.dtype == torch.float32
        self._kahan_residual = None if is_fp32 else torch.zeros_like(parameter)
        self._master = parameter if is_fp32 else nn.Parameter(torch.empty(0, device=parameter.device))
        self._optimizer = _build_optimizer(optimizer, self._master, learning_rate)

    @property
    def fp32_value(self) -> Tensor:
        """The parameter plus its rounding residual, float32."""
        value = self.parameter.detach().float()
        return value if self._kahan_residual is None else value + self._kahan_residual.float()

    @torch.no_grad()
    def step(self) -> None:
        """Update the parameter with its gradient, and free the gradient."""
        gradient, self.parameter.grad = self.parameter.grad, None
        self._master.data, self._master.grad = self.fp32_value, gradient.float()  # type: ignore[union-attr]
        self._optimizer.step()
        self._master.grad = None
        if self._kahan_residual is not None:
            self.parameter.copy_(self._master)
            self._kahan_residual.copy_(self._master - self.parameter.float())
            self._master.data = torch.empty(0, device=self.parameter.device)


class InBackwardOptimizer:
    """Inside the ``with`` block, ``backward`` updates the parameters, so that not all gradients exist at once."""

    def __init__(self, learning_rates: Mapping[Tensor, float], optimizer: OptimizerName) -> None:
        """Create an optimizer for each parameter with its own learning rate."""
        self._optimizers = {
            parameter: InBackwardAdamW(parameter, rate, optimizer) for parameter, rate in learning_rates.items()
        }
        self._hooks: list[RemovableHandle] = []
        self._step_in_backward = False

    def __getitem__(self, parameter: Tensor) -> InBackwardAdamW:
        return self._optimizers[parameter]

    def __enter__(self) -> "InBackwardOptimizer":
        for parameter in self._optimizers:
            parameter.requires_grad_(True)
            self._hooks.append(parameter.register_post_accumulate_grad_hook(self._on_grad_ready))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
        for parameter in self._optimizers:
            parameter.requires_grad_(False)
            parameter.grad = None

    def backward(self, loss: Tensor, *, step: bool) -> None:
        """Accumulate gradients of ``loss``; with ``step`` (the last micro-batch), also update every parameter."""
        self._step_in_backward = step
        loss.backward()

    def _on_grad_ready(self, parameter: Tensor) -> None:
        if self._step_in_backward:
            self._optimizers[parameter].step()


def _build_optimizer(name: OptimizerName, parameter: Tensor, learning_rate: float) -> Optimizer:
    if name == "adamw":
        return AdamW([parameter], lr=learning_rate, fused=True)
    try:
        from bitsandbytes.optim.adamw import AdamW8bit
    except ImportError as error:
        raise ConfigError("tune.optimizer adamw8bit needs bitsandbytes; pip install 'e4t[8bit]'") from error
    optimizer: Optimizer = AdamW8bit([parameter], lr=learning_rate)
    return optimizer
