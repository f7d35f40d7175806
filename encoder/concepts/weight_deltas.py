"""How a change of a parameter is held: as it is, as two thin factors, or in few bits."""

from typing import NamedTuple

import torch
from torch import Tensor

UP_SUFFIX, DOWN_SUFFIX, VALUES_SUFFIX, SCALE_SUFFIX = "/up", "/down", "/values", "/scale"
"""Endings of the names of a change's parts in a file."""


class LowRankDelta(NamedTuple):
    """A change of a matrix, as the product of two thin ones."""

    up: Tensor
    """(out, r)."""
    down: Tensor
    """(r, in)."""

    def to_fp16_cpu(self) -> "LowRankDelta":
        """To be kept: fp16, in the host's memory, without a graph."""
        return LowRankDelta(*(factor.detach().half().cpu() for factor in self))


class QuantizedDelta(NamedTuple):
    """A change in 8 or 4 bits a number, each row with a scale of its own.

    The first steps of Adam change all weights by about as much, in no low-rank pattern: rounding loses far less of that
    than a low rank or a sparse choice of the same size does (docs/tuning.md).
    """

    values: Tensor
    """(rows, columns) int8; or (rows, ceil(columns / 2)) uint8, two numbers a byte."""
    scale: Tensor
    """(rows, 1) float32."""


WeightDelta = Tensor | LowRankDelta | QuantizedDelta
WeightDeltas = dict[str, WeightDelta]
"""By parameter name."""


class DeltaQuantizer:
    """Brings changes down to so many bits a number, and knows what that has cost."""

    def __init__(self, bits: int) -> None:
        """Take 16 (fp16), 8 or 4; vectors are always fp16."""
        self.bits, self._error_sq, self._total_sq = bits, 0.0, 0.0

    def __call__(self, delta: Tensor) -> WeightDelta:
        """Round a change."""
        quantized = delta.half() if self.bits == 16 or delta.ndim == 1 else quantize(delta, self.bits)
        self._error_sq += float((to_dense(quantized, delta.shape) - delta).square().sum())
        self._total_sq += float(delta.square().sum())
        return quantized

    @property
    def relative_error(self) -> float:
        """Norm of what was lost over the norm of all changes."""
        return (self._error_sq / self._total_sq) ** 0.5 if self._total_sq else 0.0


def quantize(delta: Tensor, bits: int) -> QuantizedDelta:
    """Round a change (out, ...) to 8 or 4 bits a number."""
    rows, max_value = delta.flatten(1).float(), 2 ** (bits - 1) - 1
    scale = rows.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / max_value
    values = (rows / scale).round().clamp(-max_value, max_value).to(torch.int8)
    return QuantizedDelta(_packed(values) if bits == 4 else values, scale)


def to_dense(delta: WeightDelta, shape: torch.Size) -> Tensor:
    """The change of a parameter of this shape itself, float32."""
    if isinstance(delta, LowRankDelta):
        return delta.up.float() @ delta.down.float()
    if isinstance(delta, QuantizedDelta):
        values = delta.values if delta.values.dtype == torch.int8 else _unpacked(delta.values)
        return (values[:, : shape[1:].numel()] * delta.scale).view(shape)
    return delta.float()


def to_tensors(key: str, delta: WeightDelta) -> dict[str, Tensor]:
    """The tensors of a change, by the names they have in a file."""
    if isinstance(delta, LowRankDelta):
        return {f"{key}{UP_SUFFIX}": delta.up.contiguous(), f"{key}{DOWN_SUFFIX}": delta.down.contiguous()}
    if isinstance(delta, QuantizedDelta):
        return {f"{key}{VALUES_SUFFIX}": delta.values.contiguous(), f"{key}{SCALE_SUFFIX}": delta.scale.contiguous()}
    return {key: delta.contiguous()}


def from_tensors(tensors: dict[str, Tensor]) -> dict[str, WeightDelta]:
    """The inverse of ``to_tensors``, for any number of changes. Raises KeyError if a part is missing."""
    deltas: dict[str, WeightDelta] = {}
    for key, tensor in tensors.items():
        if key.endswith(UP_SUFFIX):
            deltas[key.removesuffix(UP_SUFFIX)] = LowRankDelta(
                tensor, tensors[key.removesuffix(UP_SUFFIX) + DOWN_SUFFIX]
            )
        elif key.endswith(VALUES_SUFFIX):
            deltas[key.removesuffix(VALUES_SUFFIX)] = QuantizedDelta(
                tensor, tensors[key.removesuffix(VALUES_SUFFIX) + SCALE_SUFFIX]
            )
        elif not key.endswith((DOWN_SUFFIX, SCALE_SUFFIX)):
            deltas[key] = tensor
    return deltas


def _packed(values: Tensor) -> Tensor:
    """Numbers from -7 to 7, two a byte."""
    even = torch.nn.functional.pad(values, (0, values.shape[1] % 2)) + 8
    low, high = even.to(torch.uint8).unflatten(1, (-1, 2)).unbind(-1)
    packed: Tensor = low | high << 4
    return packed


def _unpacked(values: Tensor) -> Tensor:
    return torch.stack([values & 15, values >> 4], dim=-1).flatten(1).to(torch.int8) - 8
