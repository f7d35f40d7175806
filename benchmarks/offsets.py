"""Time the weight offsets of a whole UNet, forward and backward: as factors against the dense definition.

    python -m benchmarks.offsets                       # the 96 offsets of SD1.5
    python -m benchmarks.offsets --base models/base    # a quick check

Run it in the root of a checkout. Values and gradients of both are compared first, for every shape.
"""

import argparse
import sys
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from benchmarks.harness import format_ratio, summarize_ratios, time_interleaved, write_report
from benchmarks.shapes import SD1, image_encoder_for
from encoder.backbone.shapes import build_meta_backbone
from encoder.config import BackboneConfig
from encoder.model.weight_offsets import LowRankOffset, OverparametrizedOffset, attention_projections

TOLERANCE = 1e-4
console = Console(width=120)


def shapes_of(base: str) -> list[tuple[int, int]]:
    """Return (out, in) of every attention projection of a base model."""
    unet = build_meta_backbone(BackboneConfig(model=base, image_encoder=image_encoder_for(base))).unet
    return [(linear.out_features, linear.in_features) for linear in attention_projections(unet).values()]


def max_relative_error(shape: tuple[int, int]) -> float:
    """Compare value and gradients of both forms. Return the largest difference, relative to the largest entry."""
    offset = OverparametrizedOffset(*shape)
    torch.nn.init.normal_(offset.rows.weight, std=0.02)
    torch.nn.init.normal_(offset.rows.bias, std=0.02)
    weight = torch.randn(*shape)
    factored, dense = delta(offset), offset.dense()
    gradients = [torch.autograd.grad((each * weight).sum(), list(offset.parameters())) for each in (factored, dense)]
    pairs = [(factored.detach(), dense.detach()), *zip(*gradients, strict=True)]
    return nan_max([float((a - b).abs().max() / b.abs().max().clamp_min(1e-12)) for a, b in pairs])


def nan_max(values: list[float]) -> float:
    """Return the maximum, or NaN if a value is NaN: Python's ``max`` may skip NaN."""
    return float(torch.tensor(values, dtype=torch.float64).max())


def delta(offset: OverparametrizedOffset | LowRankOffset) -> Tensor:
    """Return Delta, computed from its factors."""
    u, v = offset()
    return u @ v.T


def run_all(offsets: list[OverparametrizedOffset], weights: list[Tensor], *, dense: bool) -> None:
    """Compute every offset and the gradients of a weighted sum of its entries."""
    for offset, weight in zip(offsets, weights, strict=True):
        ((offset.dense() if dense else delta(offset)) * weight).sum().backward()
        offset.zero_grad()


def main() -> int:
    """Compare both forms, then time them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default=SD1, help="hub id of a published base model, or a folder")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each form")
    parser.add_argument("--json", type=Path, help="write all measurements to this file")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    shapes = shapes_of(arguments.base)
    error = nan_max([max_relative_error(shape) for shape in sorted(set(shapes))])
    if not error <= TOLERANCE:
        raise RuntimeError(f"the factors differ from the dense definition by {error:.1e}")
    offsets = [OverparametrizedOffset(*shape) for shape in shapes]
    weights = [torch.randn(*shape) for shape in shapes]
    seconds = time_interleaved(
        {
            "dense": lambda: run_all(offsets, weights, dense=True),
            "factored": lambda: run_all(offsets, weights, dense=False),
        },
        arguments.rounds,
    )
    speedup = summarize_ratios(seconds["dense"], seconds["factored"])
    console.print(
        f"{len(shapes)} offsets, forward and backward: factored is {format_ratio(speedup)} times as fast as dense"
    )
    fastest = {form: min(times) for form, times in seconds.items()}
    console.print(
        f"values and gradients agree to {error:.1e}; {fastest['factored']:.2f} s against {fastest['dense']:.2f} s"
    )
    if arguments.json:
        write_report(
            vars(arguments), {"seconds": seconds, "speedup": speedup, "max_relative_error": error}, arguments.json
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
