"""Where the time of `e4t prepare` goes, picture by picture: see benchmarks/data_prep/run.py for how to run it.

    python -m benchmarks.data_prep.parts SOURCE

Prints JSON: CPU milliseconds a picture for each part, of one process and after one picture to warm up. Timers stand
around the functions that `make_picture` itself calls, each without what it calls in turn, so the parts add up to the
whole.
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

from benchmarks.data_prep.rivals import QUALITY, RESOLUTION, pictures_in
from data_prep.config import PrepareConfig
from data_prep.images import transform as pictures
from data_prep.prepare.shard_writer import write_tar
from data_prep.prepare.worker import configure_worker_process
from data_prep.records import Record

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

TIMED = (
    ("decode", ImageFile.ImageFile, "load"),
    ("decode", pictures, "plain_png"),
    ("resize", pictures, "resized"),
    ("color", pictures, "flatten"),
    ("color", pictures, "to_srgb"),
    ("digest", hashlib, "sha256"),
    ("encode", pictures, "encode"),
)


class Timers:
    """CPU seconds by name, of each function without the timed ones that it calls."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._inside: list[float] = []

    def around(self, name: str, function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        """The same function, timed."""

        def timed(*arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
            self._inside.append(0.0)
            started = time.process_time()
            try:
                return function(*arguments, **options)
            finally:
                spent = time.process_time() - started
                self.seconds[name] += spent - self._inside.pop()  # type: ignore[assignment]
                if self._inside:
                    self._inside[-1] += spent

        return timed


def parts(source: Path) -> dict[str, float]:
    """CPU milliseconds a picture: read, decode, resize, color, digest, encode, the rest of making it, and write."""
    config = PrepareConfig(
        source=str(source), output="none", domain="face", resolution=RESOLUTION, format="jpg", quality=QUALITY
    )
    timers, paths = Timers(), pictures_in(source)
    read = timers.around("read", Path.read_bytes)
    make = timers.around("rest", pictures.process_image)
    write = timers.around("write", write_tar)
    members: list[tuple[str, bytes]] = []
    with ExitStack() as patches:
        for name, place, function in TIMED:
            patches.enter_context(patch.object(place, function, timers.around(name, getattr(place, function))))
        for path in paths[:1] + paths:
            if len(members) == 1:
                timers.seconds.clear()
            record = Record(key=path.stem, identity=path.parent.name, source=str(path), location=(str(path),))
            members.append((f"{len(members)}.jpg", make(read(path), record, "a face", config).data))
    with tempfile.TemporaryFile() as file:
        write(file, members[1:])
    return {name: 1000 * seconds / len(paths) for name, seconds in timers.seconds.items()}


if __name__ == "__main__":
    configure_worker_process()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    print(json.dumps(parts(parser.parse_args().source)))
