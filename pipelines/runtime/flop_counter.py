"""Count floating-point operations while code runs."""

from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class FlopCounter(TorchDispatchMode):
    """Context in which the operations of matrix products, convolutions and attention are counted.

    Gives the totals of PyTorch's ``FlopCounterMode``, whose formulas it uses. That class also finds the module of each
    operation, which makes a training step of a small model four times slower.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - an overload of an operator
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - the operation's own output
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        formula: Callable[..., int] | None = flop_registry.get(func.overloadpacket)
        if formula:
            self.flops += formula(*args, **kwargs, out_val=output)
        return output
