"""Baselines for the benchmark of `e4t prepare`; see benchmarks/data_prep/run.py for the whole benchmark.

    python benchmarks/data_prep/baselines.py loop SOURCE OUTPUT
    python -m benchmarks.data_prep.baselines floor SOURCE OUTPUT
    python -m benchmarks.data_prep.baselines e4t SOURCE OUTPUT --repeat
    IMG2DATASET_VENV/bin/python benchmarks/data_prep/baselines.py img2dataset SOURCE OUTPUT --processes 2
    IMG2DATASET_VENV/bin/python benchmarks/data_prep/baselines.py resizer SOURCE OUTPUT

``loop`` is a hand-written loop with Pillow and webdataset's ShardWriter. ``img2dataset`` is that tool in its usual
form, with file:// URLs. ``resizer`` is only its decoding, resizing and encoding, on files in memory and without output.
``floor`` is the least that e4t could take: decoding of the file, at the scale that e4t chooses, and encoding of the
result, with the libraries that e4t calls. JPEG is decoded and encoded by libjpeg-turbo; PNG is decoded by kornia-rs,
the fastest decoder with wheels for x86 and ARM that we tried. The resizing in between is not counted. Each baseline
imports its packages from the environment in which it is started.
"""

import argparse
import importlib
import io
import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

RESOLUTION, QUALITY = 512, 95
Folders = tuple[Path, Path]
"""Source and output."""
COUNT_NAME = "count.json"
"""File with the numbers of images and bytes, and the CPU seconds if not all of the process count."""


@dataclass(frozen=True)
class Settings:
    """Settings of a baseline."""

    processes: int = 1
    quality: int = QUALITY
    """JPEG quality of the output."""
    shard_samples: int = 32


def list_images(source: Path) -> list[Path]:
    """List the image files in sorted order."""
    return sorted(path for path in source.rglob("*") if path.suffix in (".jpg", ".png"))


def loop(source: Path, output: Path, settings: Settings) -> None:
    """Open, convert, crop, resize, encode and write every image in one process."""
    import webdataset
    from PIL import Image

    if settings.processes != 1:
        raise SystemExit("the loop supports one process only")
    output.mkdir(parents=True)
    with webdataset.ShardWriter(f"{output}/%06d.tar", maxcount=settings.shard_samples, verbose=0) as writer:
        for path in list_images(source):
            image = Image.open(path).convert("RGB")
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            image = image.crop((left, top, left + side, top + side))
            image = image.resize((RESOLUTION, RESOLUTION), Image.Resampling.LANCZOS)
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=settings.quality)
            metadata = {"identity": path.parent.name}
            writer.write({"__key__": f"{path.parent.name}_{path.stem}", "jpg": buffer.getvalue(), "json": metadata})


def img2dataset(source: Path, output: Path, settings: Settings) -> None:
    """Write webdataset shards with img2dataset; in each process, one thread reads ahead."""
    from img2dataset import download  # type: ignore[import-not-found]

    output.mkdir(parents=True)
    urls = output.with_suffix(".urls.txt")
    urls.write_text("".join(f"{path.resolve().as_uri()}\n" for path in list_images(source)))
    download(
        url_list=str(urls),
        output_folder=str(output),
        output_format="webdataset",
        image_size=RESOLUTION,
        resize_mode="center_crop",
        encode_format="jpg",
        encode_quality=settings.quality,
        number_sample_per_shard=settings.shard_samples,
        processes_count=settings.processes,
        thread_count=1,
        extract_exif=False,
    )


def resizer(source: Path, output: Path, settings: Settings) -> None:
    """Run img2dataset's Resizer in one process and write only the number of images and bytes."""
    from img2dataset.resizer import Resizer  # type: ignore[import-not-found]

    if settings.processes != 1:
        raise SystemExit("the resizer supports one process only")
    resize = Resizer(
        image_size=RESOLUTION,
        resize_mode="center_crop",
        resize_only_if_bigger=False,
        encode_format="jpg",
        encode_quality=settings.quality,
    )
    files = [io.BytesIO(path.read_bytes()) for path in list_images(source)]
    stored = 0
    for file in files:
        data, *_, error = resize(file)
        if error:
            raise SystemExit(error)
        stored += len(data)
    output.mkdir(parents=True)
    (output / COUNT_NAME).write_text(json.dumps({"images": len(files), "bytes": stored}))


def e4t(source: Path, output: Path, settings: Settings) -> None:
    """Run the stages of `e4t prepare` in this process."""
    from data_prep.config import PrepareConfig
    from data_prep.prepare.executors import LocalExecutor
    from data_prep.prepare.pipeline import prepare

    config = PrepareConfig(
        source=str(source),
        output=str(output),
        domain="face",
        resolution=RESOLUTION,
        format="jpg",
        quality=settings.quality,
        shard_samples=settings.shard_samples,
    )
    prepare(config, LocalExecutor(workers=1))


def img2dataset_in_process(source: Path, output: Path, settings: Settings) -> None:
    """Run img2dataset without its worker and logger processes, whose startup would count."""
    from unittest.mock import Mock, patch

    main = importlib.import_module("img2dataset.main")  # the package has a function of this name

    def run_shards(_processes: int, download_shard: Callable[[object], object], shards: object, *_: object) -> None:
        for shard in shards:  # type: ignore[attr-defined]
            download_shard(shard)

    with (
        patch.object(main, "multiprocessing_distributor", run_shards),
        patch.object(main, "LoggerProcess", Mock()),
        patch.object(main.signal, "signal"),
    ):
        img2dataset(source, output, settings)


def floor(source: Path, output: Path, settings: Settings) -> None:
    """Decode and encode every image as e4t does, in one process; count the CPU time of these two steps only."""
    import kornia_rs.io
    import numpy as np
    import simplejpeg
    from PIL import Image

    from data_prep.images.crops import center_crop_box
    from data_prep.images.fast_jpeg import FULL_CHROMA_QUALITY
    from data_prep.images.resize import crop_and_resize
    from data_prep.images.transform import shrink_factor
    from data_prep.prepare.worker import configure_worker_process

    if settings.processes != 1:
        raise SystemExit("the floor supports one process only")
    configure_worker_process()
    seconds, stored, paths = 0.0, 0, list_images(source)
    for path in paths:
        data, size = path.read_bytes(), Image.open(path).size
        box = center_crop_box(size)
        factor = shrink_factor(box, RESOLUTION) if path.suffix == ".jpg" else 1
        started = time.process_time()
        if path.suffix == ".jpg":
            width, height = (-(-side // factor) for side in size)
            pixels = simplejpeg.decode_jpeg(data, "RGB", min_height=height, min_width=width, min_factor=factor)
        else:
            pixels = kornia_rs.io.decode_image_png_u8(data, size[::-1], "rgb")
        seconds += time.process_time() - started
        left, top, right, bottom = (edge / factor for edge in box)
        square = np.asarray(crop_and_resize(pixels, (left, top, right, bottom), RESOLUTION))
        started = time.process_time()
        subsampling = "4:4:4" if settings.quality >= FULL_CHROMA_QUALITY else "4:2:0"
        stored += len(kornia_rs.io.encode_image_jpegturbo(square, settings.quality, subsampling))
        seconds += time.process_time() - started
    output.mkdir(parents=True)
    (output / COUNT_NAME).write_text(json.dumps({"images": len(paths), "bytes": stored, "cpu": seconds}))


BASELINES: dict[str, Callable[[Path, Path, Settings], None]] = {
    "loop": loop,
    "img2dataset": img2dataset,
    "resizer": resizer,
    "img2dataset-in-process": img2dataset_in_process,
    "floor": floor,
    "e4t": e4t,
}


def run_repeatedly(baseline: Callable[[Path, Path, Settings], None], folders: Folders, settings: Settings) -> None:
    """Run a baseline once for every line of the standard input, and answer with ``cpu`` and CPU seconds."""
    source, output = folders
    for _ in sys.stdin:
        started = time.process_time()
        baseline(source, output, settings)
        seconds = time.process_time() - started
        if (output / COUNT_NAME).exists():
            seconds = json.loads((output / COUNT_NAME).read_text()).get("cpu", seconds)
        shutil.rmtree(output)
        print(f"\ncpu {seconds}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("baseline", choices=BASELINES)
    parser.add_argument("source", type=Path)
    parser.add_argument("output", type=Path)
    for name, default in vars(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    parser.add_argument("--repeat", action="store_true", help="run once for every line of the standard input")
    arguments = vars(parser.parse_args())
    baseline, folders = BASELINES[arguments.pop("baseline")], (arguments.pop("source"), arguments.pop("output"))
    if arguments.pop("repeat"):
        run_repeatedly(baseline, folders, Settings(**arguments))
    else:
        baseline(*folders, Settings(**arguments))
