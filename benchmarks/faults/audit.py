"""Check a run after its faults: each sample was used once per epoch, and the final weights are the same."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from data_prep.stream.shuffle import GlobalOrder


@dataclass(frozen=True)
class Samples:
    """Deviations of the samples that a run used from the global order."""

    lost: int
    """Samples that were never used in their epoch."""
    repeated: int
    """Uses beyond the first in an epoch, and uses that were not due."""


def audit(logs: Path, order: GlobalOrder, *, steps: int, batch: int) -> Samples:
    """Compare the samples that the ranks recorded in ``rank_<N>.jsonl`` with the global order of ``steps`` batches."""
    used = Counter(order.locate(index) for index in used_positions(logs))
    due = Counter(order.locate(index) for index in range(steps * batch))
    return Samples(lost=(due - used).total(), repeated=(used - due).total())


def used_positions(logs: Path) -> list[int]:
    """Return the global positions of the samples that affected the weights.

    After a crash the steps since the last checkpoint are repeated by the next attempt, so only the last attempt of each
    step counts. Rank 0 takes part in every attempt, so its file has the attempts in their order.
    """
    files = {int(path.stem.removeprefix("rank_")): _lines(path) for path in logs.glob("rank_*.jsonl")}
    last_attempt = {line["step"]: line["attempt"] for line in files.get(0, [])}
    return [
        position
        for lines in files.values()
        for line in lines
        if last_attempt.get(line["step"]) == line["attempt"]
        for position in range(line["start"], line["start"] + line["count"])
    ]


def _lines(path: Path) -> list[dict[str, int]]:
    """Return the complete lines. A killed process may leave half a line, which the next attempt's first one follows."""
    lines = []
    for line in path.read_text().splitlines():
        try:
            lines.append(json.loads(line[line.rfind("{") :]))
        except ValueError:
            continue
    return [line for line in lines if {"step", "start", "count", "attempt"} <= line.keys()]


def same_weights(folder: Path, other: Path) -> bool:
    """Return whether two folders hold the same safetensors files, byte for byte."""
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    if not names or names != sorted(path.name for path in other.glob("*.safetensors")):
        return False
    return all((folder / name).read_bytes() == (other / name).read_bytes() for name in names)


def distance(folder: Path, other: Path) -> float:
    """Return the norm of the difference between two sets of weights, divided by the norm of the second."""
    squared = [
        torch.stack(
            [(tensor.double() - reference[name].double()).square().sum(), reference[name].double().square().sum()]
        )
        for path in folder.glob("*.safetensors")
        for reference in [load_file(other / path.name)]
        for name, tensor in load_file(path).items()
    ]
    difference, norm = torch.stack(squared).sum(dim=0).sqrt().tolist()
    return float(difference / norm)
