"""Processes that decode.

Pillow decodes under Python's lock: threads would share one core among them and hold up the training that they serve.
So each decoder is a process of its own, which writes pixels into memory that both share and sends back the rest. It is
a fresh one and no fork, because a trainer has threads and a GPU, and ends when its pipe does, however its parent ended.
"""

import mmap
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_prep.config import DataLoaderConfig
from data_prep.errors import DataError, SampleReadError
from data_prep.shards.manifest import Manifest
from data_prep.shards.samples import Pixels, SampleMetadata, ShardSamples
from data_prep.stream.shuffle import is_flipped

PACKAGE_ROOT = str(Path(__file__).parents[2])
"""Where this package lies: the process finds it even if its parent's folder has changed."""

MALLOC_ENV = {"MALLOC_MMAP_THRESHOLD_": str(32 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20)}
"""Keep what a picture took for the next one. By default glibc gives a megabyte back to the system every time and takes
it again page by page, which costs a third of all the decoder's time."""


class Task(NamedTuple):
    """A picture to decode, and where to."""

    slot: int
    """Row of the shared pixels."""
    dataset: int
    """Which set."""
    epoch: int
    """Of that set; decides with the key whether the picture is mirrored."""
    shard: int
    """Of the set's split."""
    row: int
    """Of the shard."""


DecodeResult = SampleMetadata | SampleReadError


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """What a decoder must know before its first task."""

    datasets: list[tuple[str, Manifest]]
    """Folder or URL of each, and what it holds."""
    split: str
    """Of all."""
    loader_config: DataLoaderConfig
    """How they are read."""
    seed: int
    """Of the mirroring."""
    num_slots: int
    """Pictures that the shared pixels hold."""
    size: int
    """Of a picture, in pixels."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the shared pixels."""
        return (self.num_slots, self.size, self.size, 3)


class InProcessDecoder:
    """Decodes in this very process."""

    def __init__(self, config: DecoderConfig, pixels: Pixels) -> None:
        self._config, self._pixels = config, pixels
        self._datasets = [
            ShardSamples(root, config.split, config.loader_config, manifest=manifest)
            for root, manifest in config.datasets
        ]

    def decode(self, tasks: Sequence[Task]) -> list[DecodeResult]:
        """Write pictures to their rows; what is known of each, or why there is none."""
        return [self._decode(task) for task in tasks]

    def close(self) -> None:
        """Nothing to do."""

    def _decode(self, task: Task) -> DecodeResult:
        try:
            metadata, pixels = self._datasets[task.dataset].read_image(task.shard, task.row)
        except SampleReadError as error:
            return error
        flipped = self._config.loader_config.horizontal_flip and is_flipped(self._config.seed, task.epoch, metadata.key)
        self._pixels[task.slot] = pixels[:, ::-1] if flipped else pixels
        return metadata


class ProcessDecoder:
    """Decodes in a process of its own. One caller at a time."""

    def __init__(self, config: DecoderConfig, memory_fd: int) -> None:
        """``memory``: descriptor of the shared pixels."""
        self._config, self._memory_fd, self._closed = config, memory_fd, False
        self._start()

    def decode(self, tasks: Sequence[Task]) -> list[DecodeResult]:
        """Write pictures to their rows; what is known of each, or why there is none.

        Raises DataError if the process dies at it, twice.
        """
        for is_retry in (False, True):
            try:
                self._conn.send(tasks)
                results: list[DecodeResult] = self._conn.recv()
            except (EOFError, OSError) as error:
                code = self._process.wait()
                if self._closed:
                    raise DataError("the stream was closed") from error
                if is_retry:
                    raise DataError(
                        f"a decoding process has ended twice at the same pictures (exit code {code}); is memory short? "
                        "lower stream.num_workers, or run `e4t prepare --verify`"
                    ) from error
                self._start()
            else:
                return results
        raise AssertionError("unreachable")

    def close(self) -> None:
        """End the process; a call that waits for it raises DataError."""
        self._closed = True
        self._process.kill()
        self._process.wait()

    def _start(self) -> None:
        self._conn, child_conn = Pipe()
        descriptors = (child_conn.fileno(), self._memory_fd)
        self._process = subprocess.Popen(  # noqa: S603 - our own words
            [sys.executable, "-m", __name__, *map(str, descriptors)],
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=os.environ | MALLOC_ENV | {"PYTHONPATH": os.pathsep.join(filter(None, [PACKAGE_ROOT, *sys.path]))},
        )
        child_conn.close()
        self._conn.send(self._config)


def allocate_shared_pixels(config: DecoderConfig) -> tuple[int, Pixels]:
    """Memory for the job's pictures that ends with its last user, and its descriptor."""
    size = int(np.prod(config.shape))
    if hasattr(os, "memfd_create"):  # no file of /dev/shm, of which containers have little
        descriptor = os.memfd_create("e4t-pixels")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor, _map_pixels(descriptor, config)


def _map_pixels(descriptor: int, config: DecoderConfig) -> Pixels:
    memory = mmap.mmap(descriptor, int(np.prod(config.shape)))
    return np.frombuffer(memory, dtype=np.uint8).reshape(config.shape)


def worker_main(conn: Connection, memory_fd: int) -> None:
    """Be a decoder until the pipe ends."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the trainer finishes its step first, and needs pictures for it
    try:
        config: DecoderConfig = conn.recv()
        decoder = InProcessDecoder(config, _map_pixels(memory_fd, config))
        while True:
            conn.send(decoder.decode(conn.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


if __name__ == "__main__":
    # Under its own name, as which the parent knows what is sent.
    from data_prep.stream import decoder

    decoder.worker_main(Connection(int(sys.argv[1])), int(sys.argv[2]))
