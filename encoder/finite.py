"""Refuse weights and images that hold values which are not finite (NaN or infinite)."""

from collections.abc import Mapping

from torch import Tensor
from torch._subclasses import FakeTensor

from encoder.errors import ModelError


def first_nonfinite(tensors: Mapping[str, Tensor]) -> str | None:
    """Return the name of the first floating-point tensor with a value that is not finite, or None.

    Tensors without values, on the meta device or fake ones of planning, count as finite.
    """
    for name, tensor in tensors.items():
        if isinstance(tensor, FakeTensor) or tensor.is_meta:
            continue
        if tensor.is_floating_point() and not tensor.isfinite().all():
            return name
    return None


def check_finite(tensors: Mapping[str, Tensor], label: str, hint: str) -> None:
    """Check that all values of floating-point tensors are finite.

    Args:
        tensors: tensors by name.
        label: what holds them, for the message, such as a path.
        hint: what to do, for the message.

    Raises:
        ModelError: names the first tensor with a value that is not finite.
    """
    name = first_nonfinite(tensors)
    if name is not None:
        raise ModelError(f"{label}: {name} holds values that are not finite (NaN or infinite); {hint}")
