"""What `e4t prepare` is compared with: see benchmarks/data_prep/run.py for how to run it.

    python benchmarks/data_prep/rivals.py loop SOURCE OUTPUT
    IMG2DATASET_VENV/bin/python benchmarks/data_prep/rivals.py img2dataset SOURCE OUTPUT --processes 2
    IMG2DATASET_VENV/bin/python benchmarks/data_prep/rivals.py resizer SOURCE OUTPUT

``loop`` is what people write by hand: Pillow and webdataset's ShardWriter. ``img2dataset`` is that tool as it is used,
on file:// URLs instead of http ones; ``resizer`` its decode, resize and encode alone, on files in memory, without
output. Each takes what it imports from the environment that it is started in.
"""

import argparse
import io
import json
from collections.abc import Callable
from pathlib import Path

RESOLUTION, QUALITY, SHARD_SAMPLES = 512, 95, 32


def pictures_in(source: Path) -> list[Path]:
    """The files, always in the same order."""
    return sorted(path for path in source.rglob("*") if path.suffix in (".jpg", ".png"))


def loop(source: Path, output: Path, processes: int) -> None:
    """Open, convert, crop, resize, encode, write; of one process."""
    import webdataset
    from PIL import Image

    if processes != 1:
        raise SystemExit("the loop is one process")
    output.mkdir(parents=True)
    with webdataset.ShardWriter(f"{output}/%06d.tar", maxcount=SHARD_SAMPLES, verbose=0) as writer:
        for path in pictures_in(source):
            image = Image.open(path).convert("RGB")
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            image = image.crop((left, top, left + side, top + side))
            image = image.resize((RESOLUTION, RESOLUTION), Image.Resampling.LANCZOS)
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=QUALITY)
            about = {"identity": path.parent.name}
            writer.write({"__key__": f"{path.parent.name}_{path.stem}", "jpg": buffer.getvalue(), "json": about})


def img2dataset(source: Path, output: Path, processes: int) -> None:
    """The tool's own path to webdataset shards. A thread reads ahead while its process decodes and encodes."""
    from img2dataset import download  # type: ignore[import-not-found]

    output.mkdir(parents=True)
    urls = output.with_suffix(".urls.txt")
    urls.write_text("".join(f"{path.resolve().as_uri()}\n" for path in pictures_in(source)))
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
    """Of one process; writes nothing but how many pictures there were."""
    from img2dataset.resizer import Resizer  # type: ignore[import-not-found]

    if processes != 1:
        raise SystemExit("the resizer is one process")
    resize = Resizer(
        image_size=RESOLUTION,
        resize_mode="center_crop",
        resize_only_if_bigger=False,
        encode_format="jpg",
        encode_quality=QUALITY,
    )
    files = [io.BytesIO(path.read_bytes()) for path in pictures_in(source)]
    stored = 0
    for file in files:
        data, *_, error = resize(file)
        if error:
            raise SystemExit(error)
        stored += len(data)
    output.mkdir(parents=True)
    (output / "made.json").write_text(json.dumps({"pictures": len(files), "bytes": stored}))


RIVALS: dict[str, Callable[[Path, Path, int], None]] = {"loop": loop, "img2dataset": img2dataset, "resizer": resizer}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rival", choices=RIVALS)
    parser.add_argument("source", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--processes", type=int, default=1)
    arguments = parser.parse_args()
    RIVALS[arguments.rival](arguments.source, arguments.output, arguments.processes)
