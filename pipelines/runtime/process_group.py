"""The ranks of a distributed job: barrier, reduction and broadcast."""

from dataclasses import dataclass
from typing import TypeVar

import torch
from accelerate import Accelerator
from torch import distributed as dist

T = TypeVar("T")


@dataclass(frozen=True)
class ProcessGroup:
    """Rank and size of the job, and communication between the hosts.

    All methods use gloo, so they wait for the other ranks' hosts but not for any device. Every rank must call them.
    """

    accelerator: Accelerator
    rank: int
    world_size: int
    gloo_group: dist.ProcessGroup | None
    """The torch process group of all ranks with the gloo backend; None for a single process."""

    def barrier(self) -> None:
        """Wait until every rank has called this."""
        if self.gloo_group:
            dist.barrier(self.gloo_group)

    def all_reduce_max(self, number: int) -> int:
        """Return the largest number of all ranks."""
        if self.gloo_group is None:
            return number
        value = torch.tensor(number)
        dist.all_reduce(value, dist.ReduceOp.MAX, group=self.gloo_group)
        return int(value)

    def all_gather_object(self, local: T) -> list[T]:
        """Return the objects of all ranks, in the order of ranks. Objects are pickled."""
        if self.gloo_group is None:
            return [local]
        gathered = [local] * self.world_size
        dist.all_gather_object(gathered, local, group=self.gloo_group)
        return gathered

    def broadcast_from_rank_0(self, text: str) -> str:
        """Return the string that rank 0 passed, on every rank."""
        message = [text]
        if self.gloo_group:
            dist.broadcast_object_list(message, group=self.gloo_group)
        return message[0]
