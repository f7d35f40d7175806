"""Loaders that benchmarks/stream.py compares, each in a process of its own: see there for how to run it.

    python -m benchmarks.stream_loaders LOADER SET BATCHES --workers N

Prints JSON: seconds to the first batch, and then, over all batches but the first third, samples a second and
milliseconds of CPU a sample, of the process and its workers. A batch is 32 pictures as uint8 in one tensor, and their
captions. Producers are slower than what consumes here (nothing), so what was loaded ahead is gone after that third.
"""

import argparse
import io
import json
import tarfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image

BATCH = 32
SHUFFLE = 256
"""Samples of the rivals' shuffle buffers."""
Batches = Iterator[tuple[torch.Tensor, list[str]]]


def ours(root: Path, workers: int) -> Batches:
    """The stream: shuffled over 16 shards, resumable, ordered."""
    from data_prep.config import StreamConfig
    from data_prep.stream import ShardStream

    config = StreamConfig(workers=workers)
    with ShardStream(root, "train", global_batch=BATCH, config=config) as stream:
        for batch in stream:
            yield batch.tensors["pixels"], batch.captions


def sequential(root: Path, workers: int) -> Batches:
    """No loader: the tars from front to back, and Pillow. Of this process alone, nothing shuffled."""
    pixels: list[np.ndarray[Any, Any]] = []
    captions: list[str] = []
    for path in _tars(root):
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
        .batched(BATCH, partial=False)
    )
    for pixels, captions in wds.WebLoader(data, batch_size=None, num_workers=workers):
        yield torch.as_tensor(pixels), captions


def hugging_face(root: Path, workers: int) -> Batches:
    """Its streaming reader of the same tars under torch's loader, as its documentation has it."""
    from datasets import load_dataset

    codec = _codec(root)
    data = load_dataset("webdataset", data_files={"train": _tars(root)}, split="train", streaming=True)
    data = data.shuffle(seed=0, buffer_size=SHUFFLE).with_format("torch")

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
    codec: str = json.loads((root / "manifest.json").read_text())["codec"]
    return codec


def cpu_seconds() -> float:
    """Of this process and the workers that live."""
    own = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in (own, *own.children(recursive=True)))


def measure(batches: Batches, count: int) -> dict[str, float]:
    """Walk through so many batches."""
    started = time.perf_counter()
    first = next(batches)
    begin = time.perf_counter() - started
    warm = count // 3
    seen = sum(len(captions) for _, captions in islice(batches, warm)) + len(first[1])
    since, used = time.perf_counter(), cpu_seconds()
    samples = 0
    for pixels, captions in islice(batches, count - warm - 1):
        samples += len(captions)
        last = time.perf_counter(), cpu_seconds()  # before workers that have nothing left to do are gone
        if pixels.dtype != torch.uint8 or len(pixels) != len(captions):
            raise SystemExit("not a batch")
    if not samples:
        raise SystemExit(f"only {seen} samples came")
    return {"start": begin, "rate": samples / (last[0] - since), "cpu": 1000 * (last[1] - used) / samples}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("loader", choices=LOADERS)
    parser.add_argument("set", type=Path)
    parser.add_argument("batches", type=int)
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    loader = LOADERS[arguments.loader](arguments.set, arguments.workers)
    print(json.dumps(measure(loader, arguments.batches)))
