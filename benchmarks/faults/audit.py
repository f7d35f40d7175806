"""What a disturbed run is judged by: that every sample was used once an epoch, and the final weights."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from data_prep.stream.shuffle import GlobalOrder


@dataclass(frozen=True)
class Samples:
    """Of a run, against the order in which they should come."""

    lost: int
    """Never used in their epoch."""
    repeated: int
    """Uses beyond the first in their epoch, and uses that were not due."""


def audit(logs: Path, order: GlobalOrder, *, steps: int, batch: int) -> Samples:
    """Compare what the ranks wrote into ``rank_<r>.jsonl`` with the order of ``steps`` batches."""
    used = Counter(order.locate(index) for index in used_positions(logs))
    due = Counter(order.locate(index) for index in range(steps * batch))
    return Samples(lost=(due - used).total(), repeated=(used - due).total())


def used_positions(logs: Path) -> list[int]:
    """Global positions of the samples that went into the weights.

    A crash throws away the steps after the last checkpoint, and the next sitting does them again: of a step only the
    sitting counts that did it last. Rank 0 takes part in all, so its file has the sittings in their order.
    """
    files = {int(path.stem.removeprefix("rank_")): _lines(path) for path in logs.glob("rank_*.jsonl")}
    counts = {line["step"]: line["sitting"] for line in files.get(0, [])}
    return [
        position
        for lines in files.values()
        for line in lines
        if counts.get(line["step"]) == line["sitting"]
        for position in range(line["start"], line["start"] + line["count"])
    ]


def _lines(path: Path) -> list[dict[str, int]]:
    """Whole lines: a killed process leaves half of one, and the next sitting's first follows on it."""
    lines = []
    for line in path.read_text().splitlines():
        try:
            lines.append(json.loads(line[line.rfind("{") :]))
        except ValueError:
            continue
    return [line for line in lines if {"step", "start", "count", "sitting"} <= line.keys()]


def same_weights(folder: Path, other: Path) -> bool:
    """Whether two folders of trained weights hold the same files, byte for byte."""
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    if not names or names != sorted(path.name for path in other.glob("*.safetensors")):
        return False
    return all((folder / name).read_bytes() == (other / name).read_bytes() for name in names)


def distance(folder: Path, other: Path) -> float:
    """Of two sets of trained weights: the norm of their difference over the norm of the other."""
    squared = [
        torch.stack([(tensor.double() - theirs[name].double()).square().sum(), theirs[name].double().square().sum()])
        for path in folder.glob("*.safetensors")
        for theirs in [load_file(other / path.name)]
        for name, tensor in load_file(path).items()
    ]
    difference, norm = torch.stack(squared).sum(dim=0).sqrt().tolist()
    return float(difference / norm)
