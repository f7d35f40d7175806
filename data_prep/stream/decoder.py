"""Decoding processes that write pixels into shared memory.

Pillow holds the GIL while it decodes: threads would share one core and slow down training. Therefore each decoder is a
process, which writes pixels into shared memory and sends metadata through a pipe. It is spawned and not forked, because
the trainer has threads and a GPU context, and it exits when the pipe closes, however the parent ended.
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
"""Folder of the package, so that the process finds it even if the parent has changed its working directory."""

MALLOC_ENV = {"MALLOC_MMAP_THRESHOLD_": str(32 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20)}
"""Environment that makes glibc keep freed memory for the next image. By default it returns large buffers to the kernel
and faults them in again page by page, which takes a third of the decoder's time."""


class Task(NamedTuple):
    """One image to decode."""

    slot: int
    """Slot in the shared memory to write to."""
    dataset: int
    """Index of the dataset; 0 is the recipe's own."""
    epoch: int
    """Epoch of that dataset; it determines together with the key whether the image is mirrored."""
    shard: int
    """Index of the shard in the split."""
    row: int
    """Index of the sample in the shard."""


DecodeResult = SampleMetadata | SampleReadError
"""Metadata of a decoded sample, or the reason why it cannot be read."""


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """What a decoder needs to know before its first task."""

    datasets: list[tuple[str, Manifest]]
    """Folder or URL of each dataset, and its manifest."""
    split: str
    """Split to read from all datasets."""
    loader_config: DataLoaderConfig
    """Settings for reading."""
    seed: int
    """Seed that determines which images are mirrored."""
    num_slots: int
    """Number of images that fit into the shared memory."""
    size: int
    """Width and height of the images in pixels."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the shared pixels: (slots, H, W, 3)."""
        return (self.num_slots, self.size, self.size, 3)


class InProcessDecoder:
    """Decodes in the calling process."""

    def __init__(self, config: DecoderConfig, pixels: Pixels) -> None:
        self._config, self._pixels = config, pixels
        self._datasets = [
            ShardSamples(root, config.split, config.loader_config, manifest=manifest)
            for root, manifest in config.datasets
        ]

    def decode(self, tasks: Sequence[Task]) -> list[DecodeResult]:
        """Write the images to their slots; return the metadata of each or the reason why it cannot be read."""
        return [self._decode(task) for task in tasks]

    def close(self) -> None:
        """Do nothing; there is no process to end."""

    def _decode(self, task: Task) -> DecodeResult:
        try:
            metadata, pixels = self._datasets[task.dataset].read_image(task.shard, task.row)
        except SampleReadError as error:
            return error
        flipped = self._config.loader_config.horizontal_flip and is_flipped(self._config.seed, task.epoch, metadata.key)
        self._pixels[task.slot] = pixels[:, ::-1] if flipped else pixels
        return metadata


class ProcessDecoder:
    """Decodes in a separate process. Only one thread may call it at a time."""

    def __init__(self, config: DecoderConfig, memory_fd: int) -> None:
        """Start the process; ``memory_fd`` is the file descriptor of the shared pixels."""
        self._config, self._memory_fd, self._closed = config, memory_fd, False
        self._start()

    def decode(self, tasks: Sequence[Task]) -> list[DecodeResult]:
        """Write the images to their slots; return the metadata of each or the reason why it cannot be read.

        A process that died is restarted once; raises DataError if it dies again at the same tasks.
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
                        f"a decoding process died twice at the same images (exit code {code}), possibly for "
                        "lack of memory; lower stream.num_workers, or run `e4t prepare --verify`"
                    ) from error
                self._start()
            else:
                return results
        raise AssertionError("unreachable")

    def close(self) -> None:
        """End the process; a concurrent ``decode`` raises DataError."""
        self._closed = True
        self._process.kill()
        self._process.wait()

    def _start(self) -> None:
        self._conn, child_conn = Pipe()
        descriptors = (child_conn.fileno(), self._memory_fd)
        self._process = subprocess.Popen(  # noqa: S603 - fixed arguments
            [sys.executable, "-m", __name__, *map(str, descriptors)],
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=os.environ | MALLOC_ENV | {"PYTHONPATH": os.pathsep.join(filter(None, [PACKAGE_ROOT, *sys.path]))},
        )
        child_conn.close()
        self._conn.send(self._config)


def allocate_shared_pixels(config: DecoderConfig) -> tuple[int, Pixels]:
    """Allocate shared memory for the pixels; return its file descriptor and array. The last user frees it."""
    size = int(np.prod(config.shape))
    if hasattr(os, "memfd_create"):  # unlike /dev/shm, which is small in containers
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
    """Decode tasks from the pipe until it is closed (main function of the decoding process)."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the trainer finishes its step first, and needs images for it
    try:
        config: DecoderConfig = conn.recv()
        decoder = InProcessDecoder(config, _map_pixels(memory_fd, config))
        while True:
            conn.send(decoder.decode(conn.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


if __name__ == "__main__":
    # Import the module by its full name, so that pickled classes match those of the parent.
    from data_prep.stream import decoder

    decoder.worker_main(Connection(int(sys.argv[1])), int(sys.argv[2]))
