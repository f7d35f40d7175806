"""How a change of a parameter is held: as it is, as two thin factors, or in few bits."""

from typing import NamedTuple

import torch
from torch import Tensor

UP, DOWN, VALUES, SCALE = "/up", "/down", "/values", "/scale"
"""Endings of the names of a change's parts in a file."""


class LowRank(NamedTuple):
    """A change of a matrix, as the product of two thin ones."""

    up: Tensor
    """(out, r)."""
    down: Tensor
    """(r, in)."""

    def half(self) -> "LowRank":
        """To be kept: fp16, in the host's memory, without a graph."""
        return LowRank(*(factor.detach().half().cpu() for factor in self))


class Quantised(NamedTuple):
    """A change in 8 or 4 bits a number, each row with a scale of its own.

    The first steps of Adam change all weights by about as much, in no low-rank pattern: rounding loses far less of that
    than a low rank or a sparse choice of the same size does (docs/tuning.md).
    """

    values: Tensor
    """(rows, columns) int8; or (rows, ceil(columns / 2)) uint8, two numbers a byte."""
    scale: Tensor
    """(rows, 1) float32."""


Change = Tensor | LowRank | Quantised
Changes = dict[str, Change]
"""By parameter name."""


class Rounding:
    """Brings changes down to so many bits a number, and knows what that has cost."""

    def __init__(self, bits: int) -> None:
        """Take 16 (fp16), 8 or 4; vectors are always fp16."""
        self.bits, self._wrong, self._all = bits, 0.0, 0.0

    def __call__(self, change: Tensor) -> Change:
        """Round a change."""
        kept = change.half() if self.bits == 16 or change.ndim == 1 else quantised(change, self.bits)
        self._wrong += float((dense(kept, change.shape) - change).square().sum())
        self._all += float(change.square().sum())
        return kept

    @property
    def error(self) -> float:
        """Norm of what was lost over the norm of all changes."""
        return (self._wrong / self._all) ** 0.5 if self._all else 0.0


def quantised(change: Tensor, bits: int) -> Quantised:
    """Round a change (out, ...) to 8 or 4 bits a number."""
    rows, largest = change.flatten(1).float(), 2 ** (bits - 1) - 1
    scale = rows.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / largest
    values = (rows / scale).round().clamp(-largest, largest).to(torch.int8)
    return Quantised(_packed(values) if bits == 4 else values, scale)


def dense(change: Change, shape: torch.Size) -> Tensor:
    """The change of a parameter of this shape itself, float32."""
    if isinstance(change, LowRank):
        return change.up.float() @ change.down.float()
    if isinstance(change, Quantised):
        values = change.values if change.values.dtype == torch.int8 else _unpacked(change.values)
        return (values[:, : shape[1:].numel()] * change.scale).view(shape)
    return change.float()


def to_tensors(key: str, change: Change) -> dict[str, Tensor]:
    """The tensors of a change, by the names they have in a file."""
    if isinstance(change, LowRank):
        return {f"{key}{UP}": change.up.contiguous(), f"{key}{DOWN}": change.down.contiguous()}
    if isinstance(change, Quantised):
        return {f"{key}{VALUES}": change.values.contiguous(), f"{key}{SCALE}": change.scale.contiguous()}
    return {key: change.contiguous()}


def from_tensors(tensors: dict[str, Tensor]) -> dict[str, Change]:
    """The inverse of ``to_tensors``, for any number of changes. Raises KeyError if a part is missing."""
    changes: dict[str, Change] = {}
    for key, tensor in tensors.items():
        if key.endswith(UP):
            changes[key.removesuffix(UP)] = LowRank(tensor, tensors[key.removesuffix(UP) + DOWN])
        elif key.endswith(VALUES):
            changes[key.removesuffix(VALUES)] = Quantised(tensor, tensors[key.removesuffix(VALUES) + SCALE])
        elif not key.endswith((DOWN, SCALE)):
            changes[key] = tensor
    return changes


def _packed(values: Tensor) -> Tensor:
    """Numbers from -7 to 7, two a byte."""
    even = torch.nn.functional.pad(values, (0, values.shape[1] % 2)) + 8
    low, high = even.to(torch.uint8).unflatten(1, (-1, 2)).unbind(-1)
    packed: Tensor = low | high << 4
    return packed


def _unpacked(values: Tensor) -> Tensor:
    return torch.stack([values & 15, values >> 4], dim=-1).flatten(1).to(torch.int8) - 8
