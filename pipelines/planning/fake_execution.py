"""A step on tensors without values: what it computes, and the most memory that it holds at once."""

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
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Cost:
    """Of a piece of work."""

    flops: int
    """Floating-point operations of its matrix products, convolutions and attention."""
    peak_bytes: int
    """The most that the tensors made in it held at once."""


@contextmanager
def fake_tensors() -> Iterator[None]:
    """Inside, tensors have shapes and types but no values and no memory; a CPU's kernels say what they would make."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def measure_cost(fn: Callable[[], object]) -> Cost:
    """Do a piece of work without values, and watch."""
    with FlopCounterMode(display=False) as flop_counter, _PeakMemoryMode() as memory_mode:
        fn()
    return Cost(flop_counter.get_total_flops(), memory_mode.peak_bytes)


def module_bytes(module: nn.Module) -> int:
    """Of its parameters and buffers."""
    return sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))


def num_parameters(module: nn.Module) -> int:
    """Its parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


class _PeakMemoryMode(TorchDispatchMode):
    """Follows every storage that an operation makes until it is gone."""

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
    ) -> Any:  # noqa: ANN401 - whatever the operation gives
        for tensor in tree_iter((args, kwargs)):
            if isinstance(tensor, Tensor):
                self._track(tensor.untyped_storage(), 0)  # was there before, such as a weight: views of it are no more
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
