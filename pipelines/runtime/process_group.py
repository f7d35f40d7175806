"""The ranks of a distributed job: barrier, reduction and broadcast."""

from dataclasses import dataclass
from typing import TypeVar

import torch
from accelerate import Accelerator
from torch import distributed as dist

Told = TypeVar("Told")


@dataclass(frozen=True)
class Cluster:
    """This process's place, and how the hosts talk to each other without their devices."""

    accelerator: Accelerator
    rank: int
    world: int
    hosts: dist.ProcessGroup | None
    """Over gloo, so that asking costs no device a halt; None for a single process."""

    def wait(self) -> None:
        """Until every rank is here."""
        if self.hosts:
            dist.barrier(self.hosts)

    def largest(self, number: int) -> int:
        """The largest of all ranks' numbers."""
        if self.hosts is None:
            return number
        value = torch.tensor(number)
        dist.all_reduce(value, dist.ReduceOp.MAX, group=self.hosts)
        return int(value)

    def gather(self, mine: Told) -> list[Told]:
        """What every rank tells, by rank."""
        if self.hosts is None:
            return [mine]
        everyone = [mine] * self.world
        dist.all_gather_object(everyone, mine, group=self.hosts)
        return everyone

    def rank_0_says(self, text: str) -> str:
        """Rank 0's text, on every rank."""
        said = [text]
        if self.hosts:
            dist.broadcast_object_list(said, group=self.hosts)
        return said[0]
