"""Compares ways of keeping what the whole UNet has learned: how small, and how far from it.

    python -m benchmarks.concept_size        # tunes the shipped release on a drawn person, a minute

From the root of a checkout, in its environment. Errors are the norm of what is lost over the norm of the change, over
all matrices and convolutions; sizes are relative to 16 bits a number. The largest entries need their places, 16 bits
each, too.
"""

import argparse
import random
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.report import deliver
from data_prep.synthetic.faces import Identity, Scene, render
from encoder.concepts.weight_deltas import quantize, to_dense
from encoder.pipeline import E4TPipeline
from encoder.tuning.inputs import TuningInputs

Way = Callable[[Tensor], tuple[Tensor, float]]
"""A change (rows, columns) to what is kept of it, and the bits that takes."""
console = Console(width=120)


def few_bits(bits: int) -> Way:
    """Rounded, each row with a scale of its own."""

    def keep(change: Tensor) -> tuple[Tensor, float]:
        return to_dense(quantize(change, bits), change.shape), bits * change.numel() + 32 * len(change)

    return keep


def low_rank(rank: int) -> Way:
    """Of the best low rank, where that is smaller."""

    def keep(change: Tensor) -> tuple[Tensor, float]:
        if rank * sum(change.shape) >= change.numel():
            return change, 16 * change.numel()
        u, s, v = torch.linalg.svd(change, full_matrices=False)
        return u[:, :rank] * s[:rank] @ v[:rank], 16 * rank * sum(change.shape)

    return keep


def largest(share: float) -> Way:
    """Its largest entries."""

    def keep(change: Tensor) -> tuple[Tensor, float]:
        kept = max(1, int(share * change.numel()))
        threshold = change.abs().flatten().kthvalue(change.numel() - kept + 1).values
        return change * (change.abs() >= threshold), 32 * kept

    return keep


WAYS = {
    **{f"{bits} bits": few_bits(bits) for bits in (8, 4, 3)},
    **{f"rank {rank}": low_rank(rank) for rank in (16, 32, 64)},
    **{f"largest {share:.0%}": largest(share) for share in (0.1, 0.3, 0.5)},
}


def learned(release: str, steps: int) -> list[Tensor]:
    """What the matrices and convolutions of the UNet have learned of a drawn person."""
    rng = random.Random(1)
    pipe = E4TPipeline.from_pretrained(release)
    image = render(Identity.random(rng), Scene.random(rng), pipe.resolution)
    [concept] = pipe.tune_checkpoints(TuningInputs(images=[image]), [steps])
    changes = (
        to_dense(change, change.shape)
        for change in concept.weight_deltas["unet"].values()
        if isinstance(change, Tensor)
    )
    return [change.flatten(1) for change in changes if change.ndim > 1]


def judged(changes: list[Tensor], way: Way) -> dict[str, float]:
    """Size and error of a way."""
    kept = [way(change) for change in changes]
    wrong = sum(float((k - change).square().sum()) for (k, _), change in zip(kept, changes, strict=True))
    everything = sum(float(change.square().sum()) for change in changes)
    size = sum(bits for _, bits in kept) / sum(16 * change.numel() for change in changes)
    return {"size": size, "error": (wrong / everything) ** 0.5}


def main() -> int:
    """Tune once, keep in every way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--release", default="models/faces")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--json", type=Path, help="file for everything that was seen")
    arguments = parser.parse_args()
    changes = learned(arguments.release, arguments.steps)
    found = {name: judged(changes, way) for name, way in WAYS.items()}
    table = Table(title=f"{sum(change.numel() for change in changes):,} numbers, after {arguments.steps} steps")
    for column in ("kept as", "of 16 bits", "error"):
        table.add_column(column, justify="left" if column == "kept as" else "right")
    for name, row in found.items():
        table.add_row(name, f"{row['size']:.2f}", f"{row['error']:.1%}")
    console.print(table)
    if arguments.json:
        deliver(vars(arguments), {"ways": found}, arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
