"""Where loaded samples are put, and who puts them there."""

import os
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from data_prep.errors import Unreadable
from data_prep.shards.features import FeatureReader
from data_prep.stream.decoder import Answer, DecodingProcess, Job, LocalDecoder, Task, shared_pixels
from data_prep.stream.sample_sequence import Line
from data_prep.stream.shuffle import is_flipped


class Decoder(Protocol):
    """Reads samples into rows of its own. One caller at a time."""

    def decode(self, tasks: Sequence[Task]) -> list[Answer]:
        """What is known of each, or why it cannot be read."""

    def close(self) -> None:
        """Stop."""


class Rows(Protocol):
    """Where samples are put."""

    decoders: list[Decoder]

    def collect(self, start: int, count: int) -> dict[str, Tensor]:
        """Samples of these rows, stacked; they stay what they are when the rows are written again."""

    def close(self) -> None:
        """Let go of it."""


class PixelRows:
    """Pictures, decoded by processes into memory that they share with this one."""

    def __init__(self, line: Line, count: int) -> None:
        job = Job(
            sets=list(zip(line.roots, line.manifests, strict=True)),
            split=line.split,
            config=line.config,
            seed=line.seed,
            rows=count,
            side=line.manifests[0].resolution,
        )
        self._memory, self._pixels = shared_pixels(job)
        self.decoders: list[Decoder] = [DecodingProcess(job, self._memory) for _ in range(line.config.workers)]
        self.decoders = self.decoders or [LocalDecoder(job, self._pixels)]

    def collect(self, start: int, count: int) -> dict[str, Tensor]:
        """``pixels``."""
        return {"pixels": torch.from_numpy(self._pixels[start : start + count].copy()).permute(0, 3, 1, 2)}

    def close(self) -> None:
        """End the processes that were started meanwhile, and give back the memory."""
        for decoder in self.decoders:
            decoder.close()
        os.close(self._memory)


class FeatureRows:
    """Features, which only need to be copied: threads do."""

    def __init__(self, line: Line, count: int, features: Sequence[FeatureReader]) -> None:
        self._line, self._features = line, features
        self._tensors: list[dict[str, Tensor]] = [{} for _ in range(count)]
        self.decoders: list[Decoder] = [self] * max(1, line.config.workers)

    def decode(self, tasks: Sequence[Task]) -> list[Answer]:
        """Read features, and of the shards what else is known."""
        return [self._read(task) for task in tasks]

    def collect(self, start: int, count: int) -> dict[str, Tensor]:
        """Features by name."""
        rows = self._tensors[start : start + count]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def close(self) -> None:
        """Nothing to do."""

    def _read(self, task: Task) -> Answer:
        try:
            about = self._line.readers[task.source].about(task.shard, task.row)
            flipped = self._line.config.flip and is_flipped(self._line.seed, task.epoch, about.key)
            self._tensors[task.into] = self._features[task.source].read(task.shard, task.row, flipped=flipped)
        except Unreadable as error:
            return error
        return about
