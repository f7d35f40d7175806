"""Times the weight offsets of a whole UNet in collapsed form against the definition, forward and backward.

    python -m benchmarks.offsets                       # the 96 matrices of SD1.5
    python -m benchmarks.offsets --base models/base    # a smoke run

From the root of a checkout, in its environment. First, for every shape, value and gradients of both are compared.
"""

import argparse
import sys
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from benchmarks.report import deliver
from benchmarks.rounds import race, ratio, told
from benchmarks.shapes import SD1, tower_of
from encoder.backbone.shapes import build_meta_backbone
from encoder.config import BackboneConfig
from encoder.model.weight_offsets import LowRankOffset, OverparametrizedOffset, attention_projections

TOLERANCE = 1e-4
console = Console(width=120)


def shapes_of(base: str) -> list[tuple[int, int]]:
    """(out, in) of every projection."""
    unet = build_meta_backbone(BackboneConfig(model=base, image_encoder=tower_of(base))).unet
    return [(each.out_features, each.in_features) for each in attention_projections(unet).values()]


def disagreement(shape: tuple[int, int]) -> float:
    """The largest difference of value and of every gradient, relative to the largest entry of each."""
    matrix = OverparametrizedOffset(*shape)
    torch.nn.init.normal_(matrix.rows.weight, std=0.02)
    torch.nn.init.normal_(matrix.rows.bias, std=0.02)
    weight = torch.randn(*shape)
    collapsed, dense = delta(matrix), matrix.dense()
    gradients = [torch.autograd.grad((each * weight).sum(), list(matrix.parameters())) for each in (collapsed, dense)]
    pairs = [(collapsed.detach(), dense.detach()), *zip(*gradients, strict=True)]
    return largest([float((a - b).abs().max() / b.abs().max().clamp_min(1e-12)) for a, b in pairs])


def largest(distances: list[float]) -> float:
    """Of all; NaN if one is NaN, which Python's own max may pass over."""
    return float(torch.tensor(distances, dtype=torch.float64).max())


def delta(matrix: OverparametrizedOffset | LowRankOffset) -> Tensor:
    """The offset, from its factors."""
    u, v = matrix()
    return u @ v.T


def evaluated(matrices: list[OverparametrizedOffset], weights: list[Tensor], *, dense: bool) -> None:
    """All offsets, and the gradients of a sum of each."""
    for matrix, weight in zip(matrices, weights, strict=True):
        ((matrix.dense() if dense else delta(matrix)) * weight).sum().backward()
        matrix.zero_grad()


def main() -> int:
    """Compare, then race."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default=SD1, help="whose shapes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file for everything that was seen")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    shapes = shapes_of(arguments.base)
    worst = largest([disagreement(shape) for shape in sorted(set(shapes))])
    if not worst <= TOLERANCE:
        raise RuntimeError(f"the collapsed offset differs from the definition by {worst:.1e}")
    matrices = [OverparametrizedOffset(*shape) for shape in shapes]
    weights = [torch.randn(*shape) for shape in shapes]
    seconds = race(
        {
            "dense": lambda: evaluated(matrices, weights, dense=True),
            "collapsed": lambda: evaluated(matrices, weights, dense=False),
        },
        arguments.rounds,
    )
    faster = ratio(seconds["dense"], seconds["collapsed"])
    console.print(f"{len(shapes)} offsets, forward and backward: collapsed is {told(faster)} times as fast as dense")
    least = {form: min(times) for form, times in seconds.items()}
    console.print(
        f"values and gradients agree to {worst:.1e}; {least['collapsed']:.2f} s against {least['dense']:.2f} s"
    )
    if arguments.json:
        deliver(vars(arguments), {"seconds": seconds, "faster": faster, "disagreement": worst}, arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
