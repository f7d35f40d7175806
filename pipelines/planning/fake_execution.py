"""Run code on fake tensors to count its floating-point operations and its peak memory."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from pipelines.runtime.flop_counter import FlopCounter


@dataclass(frozen=True)
class Cost:
    """Floating-point operations and peak memory of a function."""

    flops: int
    """Floating-point operations of matrix products, convolutions and attention."""
    peak_bytes: int
    """Peak size in bytes of the tensors that it created."""


@contextmanager
def fake_tensors() -> Iterator[None]:
    """Within this context, tensors have shapes and dtypes but no values and no memory."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def measure_cost(fn: Callable[[], object]) -> Cost:
    """Run ``fn`` and return its cost; call it within ``fake_tensors``."""
    with FlopCounter() as flop_counter, _PeakMemoryMode() as memory_mode:
        fn()
    return Cost(flop_counter.flops, memory_mode.peak_bytes)


def module_bytes(module: nn.Module) -> int:
    """Return the size of parameters and buffers in bytes."""
    return sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))


def num_parameters(module: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


class _PeakMemoryMode(TorchDispatchMode):
    """Track every storage that an operation creates until it is freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.current_bytes, self.peak_bytes = 0, 0
        self._storages: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - the operation's own output
        for tensor in tree_iter((args, kwargs)):
            if isinstance(tensor, Tensor):
                self._track(tensor.untyped_storage(), 0)  # created before, such as a weight; its views cost nothing
        output = func(*args, **(kwargs or {}))
        for tensor in tree_iter(output):
            if isinstance(tensor, Tensor):
                self._track(tensor.untyped_storage(), tensor.untyped_storage().nbytes())
        return output

    def _track(self, storage: torch.UntypedStorage, size: int) -> None:
        key = id(storage)
        if key in self._storages:
            return

        def on_freed(_: object) -> None:
            del self._storages[key]
            self.current_bytes -= size

        self._storages[key] = weakref.ref(storage, on_freed)
        self.current_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.current_bytes)
