"""Weight deltas (differences between tuned and original parameters): dense, low-rank or quantized."""

from typing import NamedTuple

import torch
from torch import Tensor

UP_SUFFIX, DOWN_SUFFIX, VALUES_SUFFIX, SCALE_SUFFIX = "/up", "/down", "/values", "/scale"
"""Suffixes of the tensor names of low-rank and quantized deltas in a file."""


class LowRankDelta(NamedTuple):
    """The delta of a matrix, or of a convolution as a matrix, as the product of two factors of rank r."""

    up: Tensor
    """Left factor (out, r)."""
    down: Tensor
    """Right factor (r, in)."""

    def to_fp16_cpu(self) -> "LowRankDelta":
        """Return the delta detached from the autograd graph, in float16 on the CPU."""
        return LowRankDelta(*(factor.detach().half().cpu() for factor in self))


class QuantizedDelta(NamedTuple):
    """A delta quantized to 8 or 4 bits per number, with one scale per row.

    Adam's first steps change all weights by a similar amount, without low-rank structure. At equal size, quantization
    therefore loses far less than a low-rank or sparse approximation (docs/tuning.md).
    """

    values: Tensor
    """8 bits: (rows, columns) int8. 4 bits: (rows, ceil(columns / 2)) uint8, two numbers per byte."""
    scale: Tensor
    """Scale of each row, (rows, 1) float32."""


WeightDelta = Tensor | LowRankDelta | QuantizedDelta
WeightDeltas = dict[str, WeightDelta]
"""Deltas by parameter name."""


class DeltaQuantizer:
    """Quantizes deltas and accumulates the rounding error."""

    def __init__(self, bits: int) -> None:
        """Use 16 (float16), 8 or 4 bits per number for matrices; vectors are always float16."""
        self.bits, self._error_sq, self._total_sq = bits, 0.0, 0.0

    def __call__(self, delta: Tensor) -> WeightDelta:
        """Quantize a delta and add its rounding error to ``relative_error``."""
        quantized = delta.half() if self.bits == 16 or delta.ndim == 1 else quantize(delta, self.bits)
        self._error_sq += float((to_dense(quantized, delta.shape) - delta).square().sum())
        self._total_sq += float(delta.square().sum())
        return quantized

    @property
    def relative_error(self) -> float:
        """Norm of the rounding error of all deltas so far divided by the norm of these deltas."""
        return (self._error_sq / self._total_sq) ** 0.5 if self._total_sq else 0.0


def quantize(delta: Tensor, bits: int) -> QuantizedDelta:
    """Quantize a delta (out, ...) to 8 or 4 bits per number."""
    rows, max_value = delta.flatten(1).float(), 2 ** (bits - 1) - 1
    scale = rows.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / max_value
    values = (rows / scale).round().clamp(-max_value, max_value).to(torch.int8)
    return QuantizedDelta(_pack(values) if bits == 4 else values, scale)


def to_dense(delta: WeightDelta, shape: torch.Size) -> Tensor:
    """Return the delta as a float32 tensor of the parameter's shape."""
    if isinstance(delta, LowRankDelta):
        return (delta.up.float() @ delta.down.float()).view(shape)
    if isinstance(delta, QuantizedDelta):
        values = delta.values if delta.values.dtype == torch.int8 else _unpack(delta.values)
        return (values[:, : shape[1:].numel()] * delta.scale).view(shape)
    return delta.float()


def has_shape(delta: WeightDelta, shape: torch.Size) -> bool:
    """Return whether a delta can be made dense in this shape."""
    rows, columns = shape[0] if shape else 1, shape[1:].numel()
    if isinstance(delta, LowRankDelta):
        up, down = delta
        matrices = up.ndim == down.ndim == 2 and up.shape[1] == down.shape[0]
        return len(shape) >= 2 and matrices and (up.shape[0], down.shape[1]) == (rows, columns)
    if isinstance(delta, QuantizedDelta):
        stored_columns = columns if delta.values.dtype == torch.int8 else (columns + 1) // 2
        return delta.values.shape == (rows, stored_columns) and delta.scale.shape == (rows, 1)
    return delta.shape == shape


def to_tensors(key: str, delta: WeightDelta) -> dict[str, Tensor]:
    """Return the tensors that represent a delta in a file, by name."""
    if isinstance(delta, LowRankDelta):
        return {f"{key}{UP_SUFFIX}": delta.up.contiguous(), f"{key}{DOWN_SUFFIX}": delta.down.contiguous()}
    if isinstance(delta, QuantizedDelta):
        return {f"{key}{VALUES_SUFFIX}": delta.values.contiguous(), f"{key}{SCALE_SUFFIX}": delta.scale.contiguous()}
    return {key: delta.contiguous()}


def from_tensors(tensors: dict[str, Tensor]) -> dict[str, WeightDelta]:
    """Read any number of deltas from the tensors of a file. Raises KeyError if a part of one is missing."""
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


def _pack(values: Tensor) -> Tensor:
    """Pack integers from -7 to 7, two per byte."""
    even = torch.nn.functional.pad(values, (0, values.shape[1] % 2)) + 8
    low, high = even.to(torch.uint8).unflatten(1, (-1, 2)).unbind(-1)
    packed: Tensor = low | high << 4
    return packed


def _unpack(values: Tensor) -> Tensor:
    return torch.stack([values & 15, values >> 4], dim=-1).flatten(1).to(torch.int8) - 8
