"""Loaders that benchmarks/stream.py compares, each in a process of its own.

    python -m benchmarks.stream_loaders LOADER DATASET BATCHES --workers N --batch-size 16

Prints JSON: seconds to the first batch, and then, after 8 more batches, samples per second, CPU milliseconds per sample
over BATCHES batches, and the proportional memory (PSS) at the end, the latter two including workers. A batch is images
as uint8 in one tensor, and their captions. All loaders repeat endlessly and prefetch about 4 batches, so the same
amount is prefetched when the clock stops as when it starts.
"""

import argparse
import io
import json
import multiprocessing
import tarfile
import time
import warnings
from collections.abc import Callable, Generator
from contextlib import closing
from functools import partial
from itertools import count, cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image

PREFETCH = 4
"""Number of batches that the loaders prefetch, if they can be told."""
WARMUP = 8
"""Number of batches before the clock starts."""
SHUFFLE = 256
"""Size of the other loaders' shuffle buffers in samples."""
Batches = Generator[tuple[torch.Tensor, list[str]], None, None]


def e4t_stream(root: Path, workers: int, batch_size: int) -> Batches:
    """Read with ShardStream: shuffled over 16 shards, resumable, in a reproducible order."""
    from data_prep.config import DataLoaderConfig
    from data_prep.stream.stream import ShardStream

    config = DataLoaderConfig(num_workers=workers, prefetch=PREFETCH)
    with ShardStream(root, "train", global_batch_size=batch_size, config=config) as stream:
        for batch in stream:
            yield batch.tensors["pixels"], batch.captions


def sequential(root: Path, workers: int, batch_size: int) -> Batches:
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
                if len(captions) == batch_size:
                    yield torch.from_numpy(np.stack(pixels)), captions
                    pixels, captions = [], []


def webdataset(root: Path, workers: int, batch_size: int) -> Batches:
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
        .batched(batch_size, partial=False)
    )
    for pixels, captions in wds.WebLoader(data, batch_size=None, num_workers=workers):
        yield torch.as_tensor(pixels), captions


def hugging_face(root: Path, workers: int, batch_size: int) -> Batches:
    """Read with the streaming reader of ``datasets`` under PyTorch's DataLoader, as documented there."""
    from datasets import load_dataset

    image_format = _image_format(root)
    data = load_dataset("webdataset", data_files={"train": _tars(root)}, split="train", streaming=True)
    data = data.shuffle(seed=0, buffer_size=SHUFFLE).repeat(None).with_format("torch")

    def collate(rows: list[dict[str, Any]]) -> tuple[torch.Tensor, list[str]]:
        return torch.stack([row[image_format] for row in rows]), [row["json"]["caption"] for row in rows]

    yield from torch.utils.data.DataLoader(data, batch_size, num_workers=workers, collate_fn=collate)


class GlobalOrderDataset(torch.utils.data.Dataset[tuple[torch.Tensor, str]]):
    """The samples by their position in the stream's global order, for PyTorch's DataLoader."""

    def __init__(self, root: Path) -> None:
        self._root, self._sequence = root, None  # opened by each worker

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        from data_prep.config import DataLoaderConfig
        from data_prep.stream.sample_sequence import SampleSequence

        if self._sequence is None:
            self._sequence = SampleSequence(str(self._root), "train", DataLoaderConfig(), seed=0)
        dataset, _, shard, row = self._sequence.locate(index)
        metadata, pixels = self._sequence.readers[dataset].read_image(shard, row)
        return torch.from_numpy(pixels), metadata.caption


def dataloader(root: Path, workers: int, batch_size: int, start_method: str = "fork") -> Batches:
    """Read with PyTorch's DataLoader in the same order as ShardStream; each worker loads whole batches.

    Its default on Linux, ``fork``, copies a process that has threads and a GPU context in training, where a lock that
    another thread holds is never released. ``forkserver`` forks workers from a fresh process that has imported torch.
    """
    multiprocessing.set_forkserver_preload(["torch", "data_prep.stream.sample_sequence"])
    loader = torch.utils.data.DataLoader(
        GlobalOrderDataset(root),
        batch_sampler=(range(start, start + batch_size) for start in count(0, batch_size)),  # type: ignore[arg-type]
        num_workers=workers,
        prefetch_factor=max(1, PREFETCH // workers),
        multiprocessing_context=start_method,
        worker_init_fn=_configure_worker,
    )
    for pixels, captions in loader:
        yield pixels.permute(0, 3, 1, 2), captions


def _configure_worker(_: int) -> None:
    """Keep freed memory for the next image, as the stream's decoders do."""
    from data_prep.prepare.worker import configure_worker_process

    warnings.filterwarnings("ignore", "The given NumPy array is not writable")
    configure_worker_process()


def litdata(root: Path, workers: int, batch_size: int) -> Batches:
    """Read with litData's StreamingDataset and StreamingDataLoader, from a copy of the samples in litData's format."""
    import litdata

    class Decoded(litdata.StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
            image, caption = super().__getitem__(index)
            return torch.from_numpy(np.array(Image.open(io.BytesIO(image)).convert("RGB"))), caption

    data = Decoded(str(litdata_folder(root)), shuffle=True, drop_last=True)
    while True:
        for pixels, captions in litdata.StreamingDataLoader(data, batch_size=batch_size, num_workers=workers):
            yield pixels.permute(0, 3, 1, 2), captions


def litdata_folder(root: Path) -> Path:
    """Return the folder of the copy of a dataset in litData's format."""
    return root.with_name(f"{root.name}-litdata")


def convert_to_litdata(root: Path) -> None:
    """Copy the samples of a dataset, as they are stored, into litData's format."""
    import litdata

    litdata.optimize(_read_tar, _tars(root), str(litdata_folder(root)), chunk_bytes="64MB", num_workers=1)


def _read_tar(path: str) -> Generator[tuple[bytes, str], None, None]:
    with tarfile.open(path) as tar:
        members = [tar.extractfile(member).read() for member in tar]  # type: ignore[union-attr]
    for image, metadata in zip(members[::2], members[1::2], strict=True):
        yield image, json.loads(metadata)["caption"]


LOADERS: dict[str, Callable[[Path, int, int], Batches]] = {
    "sequential": sequential,
    "e4t": e4t_stream,
    "DataLoader": dataloader,
    "DataLoader, forkserver": partial(dataloader, start_method="forkserver"),
    "webdataset": webdataset,
    "datasets": hugging_face,
    "litdata": litdata,
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


def memory_megabytes() -> float:
    """Return the proportional memory of this process and its running workers: shared pages count once."""
    own = psutil.Process()
    return sum(process.memory_full_info().pss for process in (own, *own.children(recursive=True))) / 1e6


def measure(batches: Batches, num_batches: int, batch_size: int) -> dict[str, float]:
    """Iterate over batches and measure."""
    started = time.perf_counter()
    next(batches)
    first_batch = time.perf_counter() - started
    for _ in islice(batches, WARMUP):
        pass
    started, cpu_started = time.perf_counter(), cpu_seconds()
    for pixels, captions in islice(batches, num_batches):
        if pixels.dtype != torch.uint8 or not len(pixels) == len(captions) == batch_size:
            raise SystemExit("the loader returned an invalid batch")
    samples = batch_size * num_batches
    seconds, cpu = time.perf_counter() - started, cpu_seconds() - cpu_started
    return {"start": first_batch, "rate": samples / seconds, "cpu": 1000 * cpu / samples, "memory": memory_megabytes()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("loader", choices=LOADERS)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("batches", type=int)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=32)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    loader = LOADERS[arguments.loader](arguments.dataset, arguments.workers, arguments.batch_size)
    with closing(loader):
        print(json.dumps(measure(loader, arguments.batches, arguments.batch_size)))
