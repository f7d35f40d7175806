"""Memory for loaded samples, and the decoders that fill it."""

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
    """Reads samples into slots of a buffer. Only one thread may call it at a time."""

    def decode(self, tasks: Sequence[Task]) -> list[DecodeResult]:
        """Fill the slots of the tasks; return the metadata of each sample or the reason why it cannot be read."""

    def close(self) -> None:
        """Stop the decoder."""


class BatchBuffer(Protocol):
    """Slots for samples, which the decoders fill."""

    decoders: list[Decoder]
    """Decoders that write into the slots; they may work at the same time."""

    def gather(self, start: int, count: int) -> dict[str, Tensor]:
        """Return a copy of ``count`` slots from ``start`` on as tensors with a leading batch dimension."""

    def close(self) -> None:
        """Free the memory."""


class PixelBuffer:
    """Pixels in shared memory, filled by decoding processes."""

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
        """Return ``pixels`` (count, 3, H, W), uint8, channels last in memory."""
        return {"pixels": torch.from_numpy(self._pixels[start : start + count].copy()).permute(0, 3, 1, 2)}

    def close(self) -> None:
        """End the decoding processes and free the shared memory."""
        for decoder in self.decoders:
            decoder.close()
        os.close(self._memory_fd)


class FeatureBuffer:
    """Cached features, which only need to be copied and are therefore read by threads."""

    def __init__(self, sequence: SampleSequence, num_slots: int, features: Sequence[FeatureReader]) -> None:
        self._sequence, self._features = sequence, features
        self._tensors: list[dict[str, Tensor]] = [{} for _ in range(num_slots)]
        self.decoders: list[Decoder] = [self] * max(1, sequence.config.num_workers)

    def decode(self, tasks: Sequence[Task]) -> list[DecodeResult]:
        """Read the features from their files and the metadata from the shards."""
        return [self._read(task) for task in tasks]

    def gather(self, start: int, count: int) -> dict[str, Tensor]:
        """Return the features by name, each (count, ...)."""
        rows = self._tensors[start : start + count]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def close(self) -> None:
        """Do nothing; there are no resources to free."""

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
