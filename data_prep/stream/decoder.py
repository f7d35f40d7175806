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

from data_prep.config import StreamConfig
from data_prep.errors import DataError, Unreadable
from data_prep.shards.manifest import Manifest
from data_prep.shards.samples import About, Pixels, StoredSamples
from data_prep.stream.shuffle import is_flipped

ROOM = str(Path(__file__).parents[2])
"""Where this package lies: the process finds it even if its parent's folder has changed."""

MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(32 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20)}
"""Keep what a picture took for the next one. By default glibc gives a megabyte back to the system every time and takes
it again page by page, which costs a third of all the decoder's time."""


class Task(NamedTuple):
    """A picture to decode, and where to."""

    into: int
    """Row of the shared pixels."""
    source: int
    """Which set."""
    epoch: int
    """Of that set; decides with the key whether the picture is mirrored."""
    shard: int
    """Of the set's split."""
    row: int
    """Of the shard."""


Answer = About | Unreadable


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a decoder must know before its first task."""

    sets: list[tuple[str, Manifest]]
    """Folder or URL of each, and what it holds."""
    split: str
    """Of all."""
    config: StreamConfig
    """How they are read."""
    seed: int
    """Of the mirroring."""
    rows: int
    """Pictures that the shared pixels hold."""
    side: int
    """Of a picture, in pixels."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the shared pixels."""
        return (self.rows, self.side, self.side, 3)


class LocalDecoder:
    """Decodes in this very process."""

    def __init__(self, job: Job, pixels: Pixels) -> None:
        self._job, self._pixels = job, pixels
        self._sets = [StoredSamples(root, job.split, job.config, manifest=manifest) for root, manifest in job.sets]

    def decode(self, tasks: Sequence[Task]) -> list[Answer]:
        """Write pictures to their rows; what is known of each, or why there is none."""
        return [self._decode(task) for task in tasks]

    def close(self) -> None:
        """Nothing to do."""

    def _decode(self, task: Task) -> Answer:
        try:
            about, pixels = self._sets[task.source].picture(task.shard, task.row)
        except Unreadable as error:
            return error
        flipped = self._job.config.flip and is_flipped(self._job.seed, task.epoch, about.key)
        self._pixels[task.into] = pixels[:, ::-1] if flipped else pixels
        return about


class DecodingProcess:
    """Decodes in a process of its own. One caller at a time."""

    def __init__(self, job: Job, memory: int) -> None:
        """``memory``: descriptor of the shared pixels."""
        self._job, self._memory, self._closed = job, memory, False
        self._start()

    def decode(self, tasks: Sequence[Task]) -> list[Answer]:
        """Write pictures to their rows; what is known of each, or why there is none.

        Raises DataError if the process dies at it, twice.
        """
        for last in (False, True):
            try:
                self._pipe.send(tasks)
                answers: list[Answer] = self._pipe.recv()
            except (EOFError, OSError) as error:
                code = self._process.wait()
                if self._closed:
                    raise DataError("the stream was closed") from error
                if last:
                    raise DataError(
                        f"a decoding process has ended twice at the same pictures (exit code {code}); is memory short? "
                        "lower stream.workers, or run `e4t prepare --verify`"
                    ) from error
                self._start()
            else:
                return answers
        raise AssertionError("unreachable")

    def close(self) -> None:
        """End the process; a call that waits for it raises DataError."""
        self._closed = True
        self._process.kill()
        self._process.wait()

    def _start(self) -> None:
        self._pipe, theirs = Pipe()
        descriptors = (theirs.fileno(), self._memory)
        self._process = subprocess.Popen(  # noqa: S603 - our own words
            [sys.executable, "-m", __name__, *map(str, descriptors)],
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=os.environ | MALLOC | {"PYTHONPATH": os.pathsep.join(filter(None, [ROOM, *sys.path]))},
        )
        theirs.close()
        self._pipe.send(self._job)


def shared_pixels(job: Job) -> tuple[int, Pixels]:
    """Memory for the job's pictures that ends with its last user, and its descriptor."""
    size = int(np.prod(job.shape))
    if hasattr(os, "memfd_create"):  # no file of /dev/shm, of which containers have little
        descriptor = os.memfd_create("e4t-pixels")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor, _mapped(descriptor, job)


def _mapped(descriptor: int, job: Job) -> Pixels:
    memory = mmap.mmap(descriptor, int(np.prod(job.shape)))
    return np.frombuffer(memory, dtype=np.uint8).reshape(job.shape)


def serve(pipe: Connection, memory: int) -> None:
    """Be a decoder until the pipe ends."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the trainer finishes its step first, and needs pictures for it
    try:
        job: Job = pipe.recv()
        decoder = LocalDecoder(job, _mapped(memory, job))
        while True:
            pipe.send(decoder.decode(pipe.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


if __name__ == "__main__":
    # Under its own name, as which the parent knows what is sent.
    from data_prep.stream import decoder

    decoder.serve(Connection(int(sys.argv[1])), int(sys.argv[2]))
