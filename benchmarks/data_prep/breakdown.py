"""Break the CPU time of `e4t prepare` down by processing step; see benchmarks/data_prep/run.py for the whole benchmark.

    python -m benchmarks.data_prep.breakdown SOURCE

Prints JSON: CPU milliseconds per image for each step, measured in one process after one image as warm-up. Timers wrap
the functions that `process_image` calls and exclude nested timed functions, so the steps add up to the total.
"""

import argparse
import hashlib
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import ParamSpec, TypeVar
from unittest.mock import patch

from PIL import ImageFile

from benchmarks.data_prep.baselines import QUALITY, RESOLUTION, list_images
from data_prep.config import PrepareConfig
from data_prep.images import transform
from data_prep.prepare.worker import configure_worker_process
from data_prep.records import Record
from data_prep.shards.tar_writer import write_tar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

TIMED_FUNCTIONS = (
    ("decode", ImageFile.ImageFile, "load"),
    ("decode", transform, "try_decode_jpeg"),
    ("decode", transform, "try_decode_png"),
    ("resize", transform, "crop_and_resize"),
    ("color", transform, "to_8bit_opaque"),
    ("color", transform, "to_srgb"),
    ("digest", hashlib, "sha256"),
    ("encode", transform, "encode_image"),
)


class Timers:
    """CPU seconds by step, excluding nested timed functions."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._nested: list[float] = []

    def wrap(self, step: str, function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        """Return the function with its time added to a step."""

        def timed(*arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
            self._nested.append(0.0)
            started = time.process_time()
            try:
                return function(*arguments, **options)
            finally:
                spent = time.process_time() - started
                self.seconds[step] += spent - self._nested.pop()  # type: ignore[assignment]
                if self._nested:
                    self._nested[-1] += spent

        return timed


def measure_steps(source: Path) -> dict[str, float]:
    """Return CPU milliseconds per image for read, decode, resize, color, digest, encode, write, and the rest."""
    config = PrepareConfig(
        source=str(source), output="none", domain="face", resolution=RESOLUTION, format="jpg", quality=QUALITY
    )
    timers, paths = Timers(), list_images(source)
    read = timers.wrap("read", Path.read_bytes)
    process = timers.wrap("rest", transform.process_image)
    write = timers.wrap("write", write_tar)
    members: list[tuple[str, bytes]] = []
    with ExitStack() as patches:
        for step, owner, function in TIMED_FUNCTIONS:
            patches.enter_context(patch.object(owner, function, timers.wrap(step, getattr(owner, function))))
        for path in paths[:1] + paths:
            if len(members) == 1:
                timers.seconds.clear()
            record = Record(key=path.stem, identity=path.parent.name, source=str(path), location=(str(path),))
            members.append((f"{len(members)}.jpg", process(read(path), record, "a face", config).data))
    with tempfile.TemporaryFile() as file:
        write(file, members[1:])
    return {step: 1000 * seconds / len(paths) for step, seconds in timers.seconds.items()}


if __name__ == "__main__":
    configure_worker_process()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder of images")
    print(json.dumps(measure_steps(parser.parse_args().source)))
