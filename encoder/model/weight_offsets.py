"""Weight offsets: W' = W * (1 + Delta), elementwise, for the query, key and value projections of every attention.

Delta has rank 3 and is handled as its factors, U (out, 3) and V (in, 3) with Delta = U V^T (E4T, arXiv 2302.12228).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MethodType

import torch
from diffusers import UNet2DConditionModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from encoder.config import OffsetType
from encoder.errors import ModelError
from encoder.finite import check_finite

_OFFSET_WEIGHT = "offset_weight"
Offsets = dict[str, tuple[Tensor, Tensor]]
"""Factors U (out, 3) and V (in, 3) of each projection's Delta, by the projection's name in the UNet."""


def attention_projections(unet: UNet2DConditionModel) -> dict[str, nn.Linear]:
    """Return the query, key and value projections of every self- and cross-attention by name (96 in SD1.x)."""
    return {
        name: module
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear) and name.rsplit(".", 1)[-1] in {"to_q", "to_k", "to_v"}
    }


class OverparametrizedOffset(nn.Module):
    """Offset of one projection in the overparametrized form of the paper (E4T, arXiv 2302.12228).

    Two linear layers map a learned scalar to v_x (in,) and v_y (out,). A linear layer (W_c, b_c) acts on the columns of
    their outer product, then another one (W_r, b_r) on its rows. The last layer starts at zero, so that an untrained
    offset leaves the base model unchanged.
    """

    def __init__(self, out_features: int, in_features: int) -> None:
        super().__init__()
        self.constant = nn.Parameter(torch.ones(1))
        self.to_x = nn.Linear(1, in_features)
        self.to_y = nn.Linear(1, out_features)
        self.columns = nn.Linear(in_features, in_features)
        self.rows = nn.Linear(out_features, out_features)
        nn.init.zeros_(self.rows.weight)
        nn.init.zeros_(self.rows.bias)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return the factors U (out, 3) and V (in, 3) whose product U V^T equals ``dense()``.

        Delta = (W_r v_y)(W_c v_x)^T + (W_r 1) b_c^T + b_r 1^T costs O(out^2 + in^2) instead of O(out^2 in + out in^2).
        """
        x = self.columns.weight @ self.to_x(self.constant)
        y = self.rows.weight @ self.to_y(self.constant)
        u = torch.stack([y, self.rows.weight.sum(dim=1), self.rows.bias], dim=1)
        v = torch.stack([x, self.columns.bias, torch.ones_like(x)], dim=1)
        return u, v

    def dense(self) -> Tensor:
        """Return Delta (out, in) computed by its definition. Only tests and benchmarks need it."""
        outer = torch.outer(self.to_y(self.constant), self.to_x(self.constant))
        return self.rows(self.columns(outer).T).T  # type: ignore[no-any-return]


class LowRankOffset(nn.Module):
    """Offset of one projection with the factors as parameters: the same set of Deltas, 3 out + 2 in parameters.

    U starts at zero, so that an untrained offset leaves the base model unchanged. The third column of V is constant
    one, as in the factors of ``OverparametrizedOffset``.
    """

    def __init__(self, out_features: int, in_features: int) -> None:
        super().__init__()
        self.u = nn.Parameter(torch.zeros(out_features, 3))
        self.v = nn.Parameter(torch.randn(in_features, 2))

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return the factors U (out, 3) and V (in, 3)."""
        return self.u, F.pad(self.v, (0, 1), value=1.0)


OFFSET_TYPES: dict[str, type[OverparametrizedOffset] | type[LowRankOffset]] = {
    "overparametrized": OverparametrizedOffset,
    "low_rank": LowRankOffset,
}


class OffsetPredictor(nn.Module):
    """Predict the offsets of all attention projections of a UNet. They depend on the parameters alone."""

    def __init__(self, shapes: dict[str, tuple[int, int]], offset_type: OffsetType = "overparametrized") -> None:
        """Create offsets for projections of these shapes (out, in), by the projections' names."""
        super().__init__()
        self.shapes, self.offset_type = shapes, offset_type
        self.offsets = nn.ModuleList(OFFSET_TYPES[offset_type](*shape) for shape in shapes.values())

    @classmethod
    def for_unet(cls, unet: UNet2DConditionModel, offset_type: OffsetType = "overparametrized") -> "OffsetPredictor":
        """Create a predictor for the attention projections of ``unet``; without any if ``offset_type`` is "none"."""
        projections = {} if offset_type == "none" else attention_projections(unet)
        return cls({name: (each.out_features, each.in_features) for name, each in projections.items()}, offset_type)

    def meta_copy(self) -> "OffsetPredictor":
        """Copy the structure to the meta device, to fill it with ``load_state_dict(..., assign=True)``."""
        with torch.device("meta"):
            return OffsetPredictor(self.shapes, self.offset_type)

    def forward(self) -> Offsets:
        """Return the factors of every offset."""
        return {name: offset() for name, offset in zip(self.shapes, self.offsets, strict=True)}


@contextmanager
def applied_offsets(unet: UNet2DConditionModel, offsets: Offsets) -> Iterator[None]:
    """Apply offsets inside the ``with`` block, with gradients to the factors.

    On exit the UNet computes with whatever offsets were applied before. The block must include the backward pass:
    gradient checkpointing recomputes activations there and needs the same weights.
    """
    with offset_scope(unet):
        set_offsets(unet, offsets)
        yield


@contextmanager
def offset_scope(unet: UNet2DConditionModel) -> Iterator[None]:
    """Undo on exit every ``set_offsets`` of the ``with`` block, also if it raises.

    For a training step whose model applies the offsets itself, in its forward pass: enter the scope around forward and
    backward.
    """
    projections = attention_projections(unet).values()
    weights = [linear.__dict__.get(_OFFSET_WEIGHT) for linear in projections]
    try:
        yield
    finally:
        for linear, weight in zip(projections, weights, strict=True):
            _set_offset_weight(linear, weight)


def set_offsets(unet: UNet2DConditionModel, offsets: Offsets) -> None:
    """Let the projections compute with W * (1 + Delta), with gradients to the factors.

    Lasts until the enclosing ``offset_scope`` ends or until the next call. Raises ModelError if the offsets belong to a
    UNet with other projections.
    """
    for name, linear in _matched_linears(unet, offsets).items():
        u, v = (factor.to(linear.weight.dtype) for factor in offsets[name])
        _set_offset_weight(linear, torch.addcmul(linear.weight, linear.weight, u @ v.T))


def _set_offset_weight(linear: nn.Linear, weight: Tensor | None) -> None:
    """Replace the weight that ``linear`` computes with; None restores its own.

    The attributes are plain ones, so neither a state dict nor an optimizer sees them.
    """
    if weight is None:
        linear.__dict__.pop(_OFFSET_WEIGHT, None)
        linear.__dict__.pop("forward", None)
    else:
        linear.__dict__[_OFFSET_WEIGHT] = weight
        linear.__dict__["forward"] = MethodType(_forward_with_offset, linear)


def _forward_with_offset(linear: nn.Linear, features: Tensor) -> Tensor:
    # The weight is looked up in every call: compiled code then takes it as an input instead of being compiled again.
    return F.linear(features, linear.offset_weight, linear.bias)  # type: ignore[arg-type]


@torch.no_grad()
def merge_offsets(unet: UNet2DConditionModel, offsets: Offsets) -> dict[str, Tensor]:
    """Merge the offsets into the weights, in place. Return the original weights for ``unmerge_offsets``.

    Raises ModelError if the offsets belong to a UNet with other projections.
    """
    original_weights = {}
    for name, linear in _matched_linears(unet, offsets).items():
        original_weights[name] = linear.weight.detach().clone()
        u, v = (factor.to(linear.weight.device).float() for factor in offsets[name])
        weight = original_weights[name].float()  # float32, so that weights of lower precision are rounded only once
        linear.weight.copy_(torch.addcmul(weight, weight, u @ v.T))
    return original_weights


@torch.no_grad()
def unmerge_offsets(unet: UNet2DConditionModel, original_weights: dict[str, Tensor]) -> None:
    """Restore the weights that ``merge_offsets`` returned, bit for bit."""
    projections = attention_projections(unet)
    for name, weight in original_weights.items():
        projections[name].weight.copy_(weight)


def save_offsets(offsets: Offsets, path: Path) -> None:
    """Write the factors as safetensors, 3 out + 2 in numbers per projection: the third column of V is always one."""
    tensors = {f"{name}.u": u.detach().float().contiguous() for name, (u, _) in offsets.items()}
    tensors |= {f"{name}.v": v[:, :2].detach().float().contiguous() for name, (_, v) in offsets.items()}
    save_file(tensors, path)


def load_offsets(path: Path) -> Offsets:
    """Read a file of ``save_offsets``. Raises ModelError if it is missing or broken."""
    try:
        tensors = load_file(path)
        check_finite(tensors, f"weight offsets {path}", "get the release again, or release an earlier checkpoint")
        names = [key.removesuffix(".u") for key in tensors if key.endswith(".u")]
        return {name: (tensors[f"{name}.u"], F.pad(tensors[f"{name}.v"], (0, 1), value=1.0)) for name in names}
    except (OSError, SafetensorError, KeyError) as error:
        raise ModelError(f"weight offsets {path} cannot be read ({error}); download the release again") from error


def _matched_linears(unet: UNet2DConditionModel, offsets: Offsets) -> dict[str, nn.Linear]:
    projections = attention_projections(unet) if offsets else {}
    if projections.keys() != offsets.keys():
        mismatched = sorted(projections.keys() ^ offsets.keys())
        raise ModelError(
            f"weight offsets belong to another UNet: {len(mismatched)} projections differ, the first is "
            f"{mismatched[0]}; use the base model that they were trained on"
        )
    return projections
