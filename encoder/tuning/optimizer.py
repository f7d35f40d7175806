"""AdamW inside the backward pass: a parameter steps when its gradient is whole, and the gradient is freed."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.utils.hooks import RemovableHandle

from encoder.config import OptimizerName
from encoder.errors import ConfigError


class Update:
    """One parameter's AdamW step.

    A parameter of low precision keeps what rounding took from it in ``remainder``, of the same precision: together they
    hold 16 bits (bfloat16) where a float32 holds 24, enough that no step is lost, for half of a float32 copy's memory.
    """

    def __init__(self, parameter: Tensor, learning_rate: float, optimizer: OptimizerName) -> None:
        self.parameter = parameter
        exact = parameter.dtype == torch.float32
        self._remainder = None if exact else torch.zeros_like(parameter)
        self._master = parameter if exact else nn.Parameter(torch.empty(0, device=parameter.device))
        self._optimizer = _optimizer(optimizer, self._master, learning_rate)

    @property
    def value(self) -> Tensor:
        """The parameter with what rounding took from it, float32."""
        value = self.parameter.detach().float()
        return value if self._remainder is None else value + self._remainder.float()

    @torch.no_grad()
    def step(self) -> None:
        """Step with the gradient, and free it."""
        gradient, self.parameter.grad = self.parameter.grad, None
        self._master.data, self._master.grad = self.value, gradient.float()  # type: ignore[union-attr]
        self._optimizer.step()
        self._master.grad = None
        if self._remainder is not None:
            self.parameter.copy_(self._master)
            self._remainder.copy_(self._master - self.parameter.float())
            self._master.data = torch.empty(0, device=self.parameter.device)


class Updates:
    """Inside the ``with`` block parameters learn by ``backward`` alone; gradients never stand all at once."""

    def __init__(self, learning_rates: Mapping[Tensor, float], optimizer: OptimizerName) -> None:
        """Take every parameter's learning rate."""
        self._updates = {parameter: Update(parameter, rate, optimizer) for parameter, rate in learning_rates.items()}
        self._hooks: list[RemovableHandle] = []
        self._stepping = False

    def __getitem__(self, parameter: Tensor) -> Update:
        return self._updates[parameter]

    def __enter__(self) -> "Updates":
        for parameter in self._updates:
            parameter.requires_grad_(True)
            self._hooks.append(parameter.register_post_accumulate_grad_hook(self._arrived))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
        for parameter in self._updates:
            parameter.requires_grad_(False)
            parameter.grad = None

    def backward(self, loss: Tensor, *, step: bool) -> None:
        """Add the loss's gradients; with ``step``, as at the last micro-batch, every parameter steps with its own."""
        self._stepping = step
        loss.backward()

    def _arrived(self, parameter: Tensor) -> None:
        if self._stepping:
            self._updates[parameter].step()


def _optimizer(name: OptimizerName, parameter: Tensor, learning_rate: float) -> Optimizer:
    if name == "adamw":
        return AdamW([parameter], lr=learning_rate, fused=True)
    try:
        from bitsandbytes.optim.adamw import AdamW8bit
    except ImportError as error:
        raise ConfigError("tune.optimizer adamw8bit needs bitsandbytes; pip install 'e4t[8bit]'") from error
    optimizer: Optimizer = AdamW8bit([parameter], lr=learning_rate)
    return optimizer
