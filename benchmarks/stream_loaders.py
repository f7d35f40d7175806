"""Loaders that benchmarks/stream.py compares, each in a process of its own: see there for how to run it.

    python -m benchmarks.stream_loaders LOADER SET BATCHES --workers N

Prints JSON: seconds to the first batch, and then, after 8 batches more, over BATCHES of them, samples a second and
milliseconds of CPU a sample, of the process and its workers. A batch is 32 pictures as uint8 in one tensor, and their
captions. All loaders go round without end, so as much is loaded ahead when the clock stops as when it starts.
"""

import argparse
import io
import json
import tarfile
import time
from collections.abc import Callable, Generator
from contextlib import closing
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image

BATCH = 32
WARM = 8
"""Batches before the clock starts."""
SHUFFLE = 256
"""Samples of the rivals' shuffle buffers."""
Batches = Generator[tuple[torch.Tensor, list[str]], None, None]


def ours(root: Path, workers: int) -> Batches:
    """The stream: shuffled over 16 shards, resumable, ordered."""
    from data_prep.config import DataLoaderConfig
    from data_prep.stream.stream import ShardStream

    config = DataLoaderConfig(num_workers=workers)
    with ShardStream(root, "train", global_batch_size=BATCH, config=config) as stream:
        for batch in stream:
            yield batch.tensors["pixels"], batch.captions


def sequential(root: Path, workers: int) -> Batches:
    """No loader: the tars from front to back, and Pillow. Of this process alone, nothing shuffled."""
    pixels: list[np.ndarray[Any, Any]] = []
    captions: list[str] = []
    for path in cycle(_tars(root)):
        with tarfile.open(path) as tar:
            for member in tar:
                data = tar.extractfile(member).read()  # type: ignore[union-attr]
                if member.name.endswith(".json"):
                    captions.append(json.loads(data)["caption"])
                else:
                    pixels.append(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
                if len(captions) == BATCH:
                    yield torch.from_numpy(np.stack(pixels)), captions
                    pixels, captions = [], []


def webdataset(root: Path, workers: int) -> Batches:
    """Its own pipeline and loader."""
    import webdataset as wds

    codec = _codec(root)
    data = (
        wds.WebDataset(_tars(root), shardshuffle=100)
        .shuffle(SHUFFLE)
        .decode("rgb8")
        .to_tuple(codec, "json")
        .map_tuple(lambda pixels: pixels, lambda about: about["caption"])
        .repeat()
        .batched(BATCH, partial=False)
    )
    for pixels, captions in wds.WebLoader(data, batch_size=None, num_workers=workers):
        yield torch.as_tensor(pixels), captions


def hugging_face(root: Path, workers: int) -> Batches:
    """Its streaming reader of the same tars under torch's loader, as its documentation has it."""
    from datasets import load_dataset

    codec = _codec(root)
    data = load_dataset("webdataset", data_files={"train": _tars(root)}, split="train", streaming=True)
    data = data.shuffle(seed=0, buffer_size=SHUFFLE).repeat(None).with_format("torch")

    def together(rows: list[dict[str, Any]]) -> tuple[torch.Tensor, list[str]]:
        return torch.stack([row[codec] for row in rows]), [row["json"]["caption"] for row in rows]

    yield from torch.utils.data.DataLoader(data, BATCH, num_workers=workers, collate_fn=together)


LOADERS: dict[str, Callable[[Path, int], Batches]] = {
    "sequential": sequential,
    "e4t": ours,
    "webdataset": webdataset,
    "datasets": hugging_face,
}


def _tars(root: Path) -> list[str]:
    return sorted(str(path) for path in (root / "train").glob("*.tar"))


def _codec(root: Path) -> str:
    from data_prep.shards.manifest import Manifest

    return Manifest.load(root).format


def cpu_seconds() -> float:
    """Of this process and the workers that live."""
    own = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in (own, *own.children(recursive=True)))


def measure(batches: Batches, count: int) -> dict[str, float]:
    """Walk through so many batches."""
    started = time.perf_counter()
    next(batches)
    begin = time.perf_counter() - started
    for _ in islice(batches, WARM):
        pass
    since, used = time.perf_counter(), cpu_seconds()
    for pixels, captions in islice(batches, count):
        if pixels.dtype != torch.uint8 or not len(pixels) == len(captions) == BATCH:
            raise SystemExit("not a batch")
    samples = BATCH * count
    seconds, cpu = time.perf_counter() - since, cpu_seconds() - used
    return {"start": begin, "rate": samples / seconds, "cpu": 1000 * cpu / samples}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("loader", choices=LOADERS)
    parser.add_argument("set", type=Path)
    parser.add_argument("batches", type=int)
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    loader = LOADERS[arguments.loader](arguments.set, arguments.workers)
    with closing(loader):
        print(json.dumps(measure(loader, arguments.batches)))
