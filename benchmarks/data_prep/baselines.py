"""Baselines for the benchmark of `e4t prepare`; see benchmarks/data_prep/run.py for the whole benchmark.

    python benchmarks/data_prep/baselines.py loop SOURCE OUTPUT
    IMG2DATASET_VENV/bin/python benchmarks/data_prep/baselines.py img2dataset SOURCE OUTPUT --processes 2
    IMG2DATASET_VENV/bin/python benchmarks/data_prep/baselines.py resizer SOURCE OUTPUT

``loop`` is a hand-written loop with Pillow and webdataset's ShardWriter. ``img2dataset`` is that tool in its usual
form, with file:// URLs. ``resizer`` is only its decoding, resizing and encoding, on files in memory and without output.
Each baseline imports its packages from the environment in which it is started.
"""

import argparse
import io
import json
from collections.abc import Callable
from pathlib import Path

RESOLUTION, QUALITY, SHARD_SAMPLES = 512, 95, 32


def list_images(source: Path) -> list[Path]:
    """List the image files in sorted order."""
    return sorted(path for path in source.rglob("*") if path.suffix in (".jpg", ".png"))


def loop(source: Path, output: Path, processes: int) -> None:
    """Open, convert, crop, resize, encode and write every image in one process."""
    import webdataset
    from PIL import Image

    if processes != 1:
        raise SystemExit("the loop supports one process only")
    output.mkdir(parents=True)
    with webdataset.ShardWriter(f"{output}/%06d.tar", maxcount=SHARD_SAMPLES, verbose=0) as writer:
        for path in list_images(source):
            image = Image.open(path).convert("RGB")
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            image = image.crop((left, top, left + side, top + side))
            image = image.resize((RESOLUTION, RESOLUTION), Image.Resampling.LANCZOS)
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=QUALITY)
            metadata = {"identity": path.parent.name}
            writer.write({"__key__": f"{path.parent.name}_{path.stem}", "jpg": buffer.getvalue(), "json": metadata})


def img2dataset(source: Path, output: Path, processes: int) -> None:
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
        encode_quality=QUALITY,
        number_sample_per_shard=SHARD_SAMPLES,
        processes_count=processes,
        thread_count=1,
        extract_exif=False,
    )


def resizer(source: Path, output: Path, processes: int) -> None:
    """Run img2dataset's Resizer in one process and write only the number of images and bytes."""
    from img2dataset.resizer import Resizer  # type: ignore[import-not-found]

    if processes != 1:
        raise SystemExit("the resizer supports one process only")
    resize = Resizer(
        image_size=RESOLUTION,
        resize_mode="center_crop",
        resize_only_if_bigger=False,
        encode_format="jpg",
        encode_quality=QUALITY,
    )
    files = [io.BytesIO(path.read_bytes()) for path in list_images(source)]
    stored = 0
    for file in files:
        data, *_, error = resize(file)
        if error:
            raise SystemExit(error)
        stored += len(data)
    output.mkdir(parents=True)
    (output / "count.json").write_text(json.dumps({"images": len(files), "bytes": stored}))


BASELINES: dict[str, Callable[[Path, Path, int], None]] = {"loop": loop, "img2dataset": img2dataset, "resizer": resizer}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("baseline", choices=BASELINES)
    parser.add_argument("source", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--processes", type=int, default=1)
    arguments = parser.parse_args()
    BASELINES[arguments.baseline](arguments.source, arguments.output, arguments.processes)
