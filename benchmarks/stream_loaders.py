"""Loaders that benchmarks/stream.py compares, each in a process of its own.

    python -m benchmarks.stream_loaders LOADER DATASET BATCHES --workers N

Prints JSON: seconds to the first batch, and then, after 8 more batches, samples per second and CPU milliseconds per
sample over BATCHES batches, including workers. A batch is 32 images as uint8 in one tensor, and their captions. All
loaders repeat endlessly, so the same amount is prefetched when the clock stops as when it starts.
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
WARMUP = 8
"""Number of batches before the clock starts."""
SHUFFLE = 256
"""Size of the other loaders' shuffle buffers in samples."""
Batches = Generator[tuple[torch.Tensor, list[str]], None, None]


def e4t_stream(root: Path, workers: int) -> Batches:
    """Read with ShardStream: shuffled over 16 shards, resumable, in a reproducible order."""
    from data_prep.config import DataLoaderConfig
    from data_prep.stream.stream import ShardStream

    config = DataLoaderConfig(num_workers=workers)
    with ShardStream(root, "train", global_batch_size=BATCH, config=config) as stream:
        for batch in stream:
            yield batch.tensors["pixels"], batch.captions


def sequential(root: Path, workers: int) -> Batches:
    """Read the tars sequentially and decode with Pillow in this process, without shuffling."""
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
    """Read with webdataset's pipeline and WebLoader."""
    import webdataset as wds

    image_format = _image_format(root)
    data = (
        wds.WebDataset(_tars(root), shardshuffle=100)
        .shuffle(SHUFFLE)
        .decode("rgb8")
        .to_tuple(image_format, "json")
        .map_tuple(lambda pixels: pixels, lambda metadata: metadata["caption"])
        .repeat()
        .batched(BATCH, partial=False)
    )
    for pixels, captions in wds.WebLoader(data, batch_size=None, num_workers=workers):
        yield torch.as_tensor(pixels), captions


def hugging_face(root: Path, workers: int) -> Batches:
    """Read with the streaming reader of ``datasets`` under PyTorch's DataLoader, as documented there."""
    from datasets import load_dataset

    image_format = _image_format(root)
    data = load_dataset("webdataset", data_files={"train": _tars(root)}, split="train", streaming=True)
    data = data.shuffle(seed=0, buffer_size=SHUFFLE).repeat(None).with_format("torch")

    def collate(rows: list[dict[str, Any]]) -> tuple[torch.Tensor, list[str]]:
        return torch.stack([row[image_format] for row in rows]), [row["json"]["caption"] for row in rows]

    yield from torch.utils.data.DataLoader(data, BATCH, num_workers=workers, collate_fn=collate)


LOADERS: dict[str, Callable[[Path, int], Batches]] = {
    "sequential": sequential,
    "e4t": e4t_stream,
    "webdataset": webdataset,
    "datasets": hugging_face,
}


def _tars(root: Path) -> list[str]:
    return sorted(str(path) for path in (root / "train").glob("*.tar"))


def _image_format(root: Path) -> str:
    from data_prep.shards.manifest import Manifest

    return Manifest.load(root).format


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and its running workers."""
    own = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in (own, *own.children(recursive=True)))


def measure(batches: Batches, count: int) -> dict[str, float]:
    """Iterate over ``count`` batches and measure."""
    started = time.perf_counter()
    next(batches)
    first_batch = time.perf_counter() - started
    for _ in islice(batches, WARMUP):
        pass
    started, cpu_started = time.perf_counter(), cpu_seconds()
    for pixels, captions in islice(batches, count):
        if pixels.dtype != torch.uint8 or not len(pixels) == len(captions) == BATCH:
            raise SystemExit("the loader returned an invalid batch")
    samples = BATCH * count
    seconds, cpu = time.perf_counter() - started, cpu_seconds() - cpu_started
    return {"start": first_batch, "rate": samples / seconds, "cpu": 1000 * cpu / samples}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("loader", choices=LOADERS)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("batches", type=int)
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    loader = LOADERS[arguments.loader](arguments.dataset, arguments.workers)
    with closing(loader):
        print(json.dumps(measure(loader, arguments.batches)))
