"""The ranks of a distributed job: barrier, reduction and broadcast."""

from dataclasses import dataclass
from typing import TypeVar

import torch
from accelerate import Accelerator
from torch import distributed as dist

T = TypeVar("T")


@dataclass(frozen=True)
class ProcessGroup:
    """This process's place, and how the hosts talk to each other without their devices."""

    accelerator: Accelerator
    rank: int
    world_size: int
    gloo_group: dist.ProcessGroup | None
    """Over gloo, so that asking costs no device a halt; None for a single process."""

    def barrier(self) -> None:
        """Until every rank is here."""
        if self.gloo_group:
            dist.barrier(self.gloo_group)

    def all_reduce_max(self, number: int) -> int:
        """The largest of all ranks' numbers."""
        if self.gloo_group is None:
            return number
        value = torch.tensor(number)
        dist.all_reduce(value, dist.ReduceOp.MAX, group=self.gloo_group)
        return int(value)

    def all_gather_object(self, local: T) -> list[T]:
        """What every rank tells, by rank."""
        if self.gloo_group is None:
            return [local]
        gathered = [local] * self.world_size
        dist.all_gather_object(gathered, local, group=self.gloo_group)
        return gathered

    def broadcast_from_rank_0(self, text: str) -> str:
        """Rank 0's text, on every rank."""
        message = [text]
        if self.gloo_group:
            dist.broadcast_object_list(message, group=self.gloo_group)
        return message[0]
