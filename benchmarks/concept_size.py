"""Compare ways of compressing the weight deltas of a concept: size against error.

    python -m benchmarks.concept_size        # tunes the shipped release on a drawn face, about a minute

Run it in the root of a checkout. The error is the norm of the difference over the norm of the deltas,
over all matrices and convolutions. Sizes are relative to 16 bits per value. Keeping only the largest entries takes
another 16 bits per entry for its index.
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

from benchmarks.harness import write_report
from data_prep.synthetic.faces import Identity, Scene, render
from encoder.concepts.weight_deltas import quantize, to_dense
from encoder.pipeline import E4TPipeline
from encoder.tuning.inputs import TuningInputs

Compression = Callable[[Tensor], tuple[Tensor, float]]
"""Maps a delta (rows, columns) to its lossy copy and the number of bits that this takes."""
console = Console(width=120)


def few_bits(bits: int) -> Compression:
    """Quantize with one scale per row."""

    def compress(delta: Tensor) -> tuple[Tensor, float]:
        return to_dense(quantize(delta, bits), delta.shape), bits * delta.numel() + 32 * len(delta)

    return compress


def low_rank(rank: int) -> Compression:
    """Take the best approximation of low rank, where that is smaller."""

    def compress(delta: Tensor) -> tuple[Tensor, float]:
        if rank * sum(delta.shape) >= delta.numel():
            return delta, 16 * delta.numel()
        u, s, v = torch.linalg.svd(delta, full_matrices=False)
        return u[:, :rank] * s[:rank] @ v[:rank], 16 * rank * sum(delta.shape)

    return compress


def largest(fraction: float) -> Compression:
    """Keep the entries with the largest absolute values."""

    def compress(delta: Tensor) -> tuple[Tensor, float]:
        count = max(1, int(fraction * delta.numel()))
        threshold = delta.abs().flatten().kthvalue(delta.numel() - count + 1).values
        return delta * (delta.abs() >= threshold), 32 * count

    return compress


COMPRESSIONS = {
    **{f"{bits} bits": few_bits(bits) for bits in (8, 4, 3)},
    **{f"rank {rank}": low_rank(rank) for rank in (16, 32, 64)},
    **{f"largest {fraction:.0%}": largest(fraction) for fraction in (0.1, 0.3, 0.5)},
}


def tuned_deltas(release: str, steps: int) -> list[Tensor]:
    """Tune on a drawn face. Return the deltas of the UNet's matrices and convolutions, as matrices."""
    rng = random.Random(1)
    pipe = E4TPipeline.from_pretrained(release)
    image = render(Identity.random(rng), Scene.random(rng), pipe.resolution)
    [concept] = pipe.tune_checkpoints(TuningInputs(images=[image]), [steps])
    deltas = (
        to_dense(delta, delta.shape) for delta in concept.weight_deltas["unet"].values() if isinstance(delta, Tensor)
    )
    return [delta.flatten(1) for delta in deltas if delta.ndim > 1]


def measure(deltas: list[Tensor], compression: Compression) -> dict[str, float]:
    """Return the relative size and the relative error of a compression."""
    compressed = [compression(delta) for delta in deltas]
    squared_error = sum(
        float((copy - delta).square().sum()) for (copy, _), delta in zip(compressed, deltas, strict=True)
    )
    squared_norm = sum(float(delta.square().sum()) for delta in deltas)
    size = sum(bits for _, bits in compressed) / sum(16 * delta.numel() for delta in deltas)
    return {"size": size, "error": (squared_error / squared_norm) ** 0.5}


def main() -> int:
    """Tune once and measure every compression."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--release", default="models/faces", help="folder or hub id of the release to tune")
    parser.add_argument("--steps", type=int, default=15, help="tuning steps")
    parser.add_argument("--json", type=Path, help="write all measurements to this file")
    arguments = parser.parse_args()
    deltas = tuned_deltas(arguments.release, arguments.steps)
    results = {name: measure(deltas, compression) for name, compression in COMPRESSIONS.items()}
    table = Table(title=f"{sum(delta.numel() for delta in deltas):,} values, after {arguments.steps} steps")
    for column in ("compression", "size / 16 bits", "error"):
        table.add_column(column, justify="left" if column == "compression" else "right")
    for name, row in results.items():
        table.add_row(name, f"{row['size']:.2f}", f"{row['error']:.1%}")
    console.print(table)
    if arguments.json:
        write_report(vars(arguments), {"compressions": results}, arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
