"""Where loaded samples are put, and who puts them there."""

import os
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from data_prep.errors import SampleReadError
from data_prep.shards.features import FeatureReader
from data_prep.stream.decoder import (
    DecoderConfig,
    DecodeResult,
    InProcessDecoder,
    ProcessDecoder,
    Task,
    allocate_shared_pixels,
)
from data_prep.stream.sample_sequence import SampleSequence
from data_prep.stream.shuffle import is_flipped


class Decoder(Protocol):
    """Reads samples into rows of its own. One caller at a time."""

    def decode(self, tasks: Sequence[Task]) -> list[DecodeResult]:
        """What is known of each, or why it cannot be read."""

    def close(self) -> None:
        """Stop."""


class BatchBuffer(Protocol):
    """Where samples are put."""

    decoders: list[Decoder]

    def gather(self, start: int, count: int) -> dict[str, Tensor]:
        """Samples of these rows, stacked; they stay what they are when the rows are written again."""

    def close(self) -> None:
        """Let go of it."""


class PixelBuffer:
    """Pictures, decoded by processes into memory that they share with this one."""

    def __init__(self, sequence: SampleSequence, num_slots: int) -> None:
        config = DecoderConfig(
            datasets=list(zip(sequence.roots, sequence.manifests, strict=True)),
            split=sequence.split,
            loader_config=sequence.config,
            seed=sequence.seed,
            num_slots=num_slots,
            size=sequence.manifests[0].resolution,
        )
        self._memory_fd, self._pixels = allocate_shared_pixels(config)
        self.decoders: list[Decoder] = [
            ProcessDecoder(config, self._memory_fd) for _ in range(sequence.config.num_workers)
        ]
        self.decoders = self.decoders or [InProcessDecoder(config, self._pixels)]

    def gather(self, start: int, count: int) -> dict[str, Tensor]:
        """``pixels``."""
        return {"pixels": torch.from_numpy(self._pixels[start : start + count].copy()).permute(0, 3, 1, 2)}

    def close(self) -> None:
        """End the processes that were started meanwhile, and give back the memory."""
        for decoder in self.decoders:
            decoder.close()
        os.close(self._memory_fd)


class FeatureBuffer:
    """Features, which only need to be copied: threads do."""

    def __init__(self, sequence: SampleSequence, num_slots: int, features: Sequence[FeatureReader]) -> None:
        self._sequence, self._features = sequence, features
        self._tensors: list[dict[str, Tensor]] = [{} for _ in range(num_slots)]
        self.decoders: list[Decoder] = [self] * max(1, sequence.config.num_workers)

    def decode(self, tasks: Sequence[Task]) -> list[DecodeResult]:
        """Read features, and of the shards what else is known."""
        return [self._read(task) for task in tasks]

    def gather(self, start: int, count: int) -> dict[str, Tensor]:
        """Features by name."""
        rows = self._tensors[start : start + count]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def close(self) -> None:
        """Nothing to do."""

    def _read(self, task: Task) -> DecodeResult:
        try:
            metadata = self._sequence.readers[task.dataset].metadata(task.shard, task.row)
            flipped = self._sequence.config.horizontal_flip and is_flipped(
                self._sequence.seed, task.epoch, metadata.key
            )
            self._tensors[task.slot] = self._features[task.dataset].read(task.shard, task.row, flipped=flipped)
        except SampleReadError as error:
            return error
        return metadata
