"""Weight offsets: W' = W * (1 + Delta) for the q, k and v of every attention, Delta of rank 3."""

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

Offsets = dict[str, tuple[Tensor, Tensor]]
"""For each projection's name the factors U (out, 3) and V (in, 3) of Delta = U V^T."""


def attention_projections(unet: UNet2DConditionModel) -> dict[str, nn.Linear]:
    """The q, k and v projections of every self- and cross-attention (96 of them in SD1.x), by name."""
    return {
        name: module
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear) and name.rsplit(".", 1)[-1] in {"to_q", "to_k", "to_v"}
    }


class OverparametrizedOffset(nn.Module):
    """One matrix's offset in the method's own, over-parametrised form.

    A learned constant through two linears gives v_x (in) and v_y (out); their outer product passes a linear over
    columns (W_c, b_c), then one over rows (W_r, b_r). The last linear starts at zero: step 0 is the base model.
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
        """Factors U (out, 3) and V (in, 3), with U V^T equal to ``dense``.

        Delta = (W_r v_y)(W_c v_x)^T + (W_r 1) b_c^T + b_r 1^T: O(out^2 + in^2) instead of O(out^2 in + out in^2).
        """
        x = self.columns.weight @ self.to_x(self.constant)
        y = self.rows.weight @ self.to_y(self.constant)
        u = torch.stack([y, self.rows.weight.sum(dim=1), self.rows.bias], dim=1)
        v = torch.stack([x, self.columns.bias, torch.ones_like(x)], dim=1)
        return u, v

    def dense(self) -> Tensor:
        """Delta (out, in) by the definition; for checking."""
        outer = torch.outer(self.to_y(self.constant), self.to_x(self.constant))
        return self.rows(self.columns(outer).T).T  # type: ignore[no-any-return]


class LowRankOffset(nn.Module):
    """One matrix's offset as its factors themselves: the same functions, in 3 out + 2 in numbers.

    U starts at zero, so that step 0 is the base model; V's third column is ones, as in the collapse.
    """

    def __init__(self, out_features: int, in_features: int) -> None:
        super().__init__()
        self.u = nn.Parameter(torch.zeros(out_features, 3))
        self.v = nn.Parameter(torch.randn(in_features, 2))

    def forward(self) -> tuple[Tensor, Tensor]:
        """Factors U (out, 3) and V (in, 3)."""
        return self.u, F.pad(self.v, (0, 1), value=1.0)


OFFSET_TYPES: dict[str, type[OverparametrizedOffset] | type[LowRankOffset]] = {
    "overparametrized": OverparametrizedOffset,
    "direct": LowRankOffset,
}


class OffsetPredictor(nn.Module):
    """The offsets of all attention projections of a UNet; a function of its parameters alone."""

    def __init__(self, shapes: dict[str, tuple[int, int]], offset_type: OffsetType = "overparametrized") -> None:
        """Take each projection's (out, in) by name."""
        super().__init__()
        self.shapes, self.offset_type = shapes, offset_type
        self.offsets = nn.ModuleList(OFFSET_TYPES[offset_type](*shape) for shape in shapes.values())

    @classmethod
    def for_unet(cls, unet: UNet2DConditionModel, offset_type: OffsetType = "overparametrized") -> "OffsetPredictor":
        """A predictor for the projections of ``unet``."""
        projections = {} if offset_type == "none" else attention_projections(unet)
        return cls({name: (each.out_features, each.in_features) for name, each in projections.items()}, offset_type)

    def meta_copy(self) -> "OffsetPredictor":
        """One of the same shapes and form, without values or memory, to load some into by assignment."""
        with torch.device("meta"):
            return OffsetPredictor(self.shapes, self.offset_type)

    def forward(self) -> Offsets:
        """Evaluate every offset in collapsed form."""
        return {name: offset() for name, offset in zip(self.shapes, self.offsets, strict=True)}


def set_offsets(unet: UNet2DConditionModel, offsets: Offsets) -> None:
    """Let the projections compute with W * (1 + Delta) from now on, with gradients to the factors.

    Stays until ``clear_offsets`` or the next call, so that gradient checkpointing recomputes with the same weights.
    """
    for name, linear in _matched_linears(unet, offsets).items():
        u, v = (factor.to(linear.weight.dtype) for factor in offsets[name])
        linear.offset_weight = torch.addcmul(linear.weight, linear.weight, u @ v.T)
        linear.forward = MethodType(_with_offsets, linear)  # type: ignore[method-assign]


def _with_offsets(linear: nn.Linear, features: Tensor) -> Tensor:
    """Look the weight up in every call: compiled code then takes it as an input, and is not compiled anew for it."""
    return F.linear(features, linear.offset_weight, linear.bias)  # type: ignore[arg-type]


def clear_offsets(unet: UNet2DConditionModel) -> None:
    """Let the projections compute with their own weights again."""
    for linear in attention_projections(unet).values():
        linear.__dict__.pop("forward", None)
        linear.__dict__.pop("offset_weight", None)


@torch.no_grad()
def merge_offsets(unet: UNet2DConditionModel, offsets: Offsets) -> dict[str, Tensor]:
    """Multiply the offsets into the weights: an ordinary UNet remains. Returns the former weights, for ``unfold``."""
    original_weights = {}
    for name, linear in _matched_linears(unet, offsets).items():
        original_weights[name] = linear.weight.detach().clone()
        u, v = (factor.to(linear.weight.device).float() for factor in offsets[name])
        weight = original_weights[name].float()
        linear.weight.copy_(torch.addcmul(weight, weight, u @ v.T))  # rounded once, if the weights are of low precision
    return original_weights


@torch.no_grad()
def unmerge_offsets(unet: UNet2DConditionModel, original_weights: dict[str, Tensor]) -> None:
    """Put back the weights that ``fold`` returned, bit for bit."""
    projections = attention_projections(unet)
    for name, weight in original_weights.items():
        projections[name].weight.copy_(weight)


def save_offsets(offsets: Offsets, path: Path) -> None:
    """Write the collapsed factors: 3 out + 2 in numbers a matrix (V's third column is ones)."""
    tensors = {f"{name}.u": u.detach().float().contiguous() for name, (u, _) in offsets.items()}
    tensors |= {f"{name}.v": v[:, :2].detach().float().contiguous() for name, (_, v) in offsets.items()}
    save_file(tensors, path)


def load_offsets(path: Path) -> Offsets:
    """Read what ``save_offsets`` wrote. Raises ModelError if it is broken."""
    try:
        tensors = load_file(path)
        names = [key.removesuffix(".u") for key in tensors if key.endswith(".u")]
        return {name: (tensors[f"{name}.u"], F.pad(tensors[f"{name}.v"], (0, 1), value=1.0)) for name in names}
    except (OSError, SafetensorError, KeyError) as error:
        raise ModelError(f"{path} holds no weight offsets ({error}); get the release again") from error


def _matched_linears(unet: UNet2DConditionModel, offsets: Offsets) -> dict[str, nn.Linear]:
    projections = attention_projections(unet) if offsets else {}
    if projections.keys() != offsets.keys():
        mismatched = sorted(projections.keys() ^ offsets.keys())
        raise ModelError(
            f"weight offsets are for another UNet: {len(mismatched)} projections differ, first {mismatched[0]}; "
            "use the base that they were trained on"
        )
    return projections
