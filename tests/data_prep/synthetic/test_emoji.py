"""Small emoji packages in the layout of the real ones."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from data_prep.config import PrepareConfig
from data_prep.errors import DataError
from data_prep.prepare.pipeline import prepare
from data_prep.shards.verify import verify_shards
from data_prep.synthetic.emoji import EmojiConfig, build_emoji_dataset, iter_glyphs
from e4t_errors import ConfigError

WAVE = {
    "name": "WAVING HAND SIGN", "short_name": "wave", "image": "1f44b.png",
    "skin_variations": {"1F3FF": {"image": "1f44b-1f3ff.png"}},
}  # fmt: skip
APPLE = {"name": "RED APPLE", "short_name": "apple", "image": "1f34e.png"}


def drawn(color: str) -> bytes:
    """Return a PNG of a disc on a transparent background."""
    image, file = Image.new("RGBA", (64, 64), (0, 0, 0, 0)), io.BytesIO()
    image.paste(color, (20, 20, 44, 44))
    image.save(file, "PNG")
    return file.getvalue()


def package(folder: Path, vendor: str, color: str, **more: bytes) -> str:
    """Write a package in the form that npm pack downloads."""
    entries = [entry | {f"has_img_{vendor}": True} for entry in (WAVE, APPLE)]
    entries[0]["skin_variations"] = {"1F3FF": WAVE["skin_variations"]["1F3FF"] | {f"has_img_{vendor}": True}}
    images = {f"img/{vendor}/64/{name}": drawn(color) for name in ("1f44b.png", "1f44b-1f3ff.png", "1f34e.png")}
    members = {"package.json": json.dumps({"name": f"emoji-datasource-{vendor}"}).encode()}
    path = folder / f"{vendor}.tgz"
    with tarfile.open(path, "w:gz") as tar:
        for name, data in (members | {"emoji.json": json.dumps(entries).encode()} | images | more).items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(path)


@pytest.fixture
def config(tmp_path: Path) -> EmojiConfig:
    packages = (package(tmp_path, "google", "red"), package(tmp_path, "twitter", "blue"))
    return EmojiConfig(packages=packages, output=str(tmp_path / "emoji"))


def test_an_emoji_has_an_image_of_each_vendor_and_tone_plain_ones_first(config: EmojiConfig) -> None:
    folder = build_emoji_dataset(config)
    captions = [path.read_text().strip() for path in sorted((folder / "wave").glob("00?.txt"))]
    assert captions == [
        "an emoji drawn by noto",
        "an emoji drawn by twemoji",
        "an emoji with dark skin drawn by noto",
        "an emoji with dark skin drawn by twemoji",
    ]
    assert len(list((folder / "apple").glob("*.png"))) == 2


def test_further_captions_name_the_emoji(config: EmojiConfig) -> None:
    complete, alone, _ = (build_emoji_dataset(config) / "apple" / "001.captions.txt").read_text().splitlines()
    assert (complete, alone) == ("an emoji of red apple drawn by twemoji", "an emoji of red apple")


def test_transparency_becomes_white(config: EmojiConfig) -> None:
    with Image.open(build_emoji_dataset(config) / "apple" / "000.png") as image:
        assert (image.mode, image.getpixel((0, 0)), image.getpixel((32, 32))) == ("RGB", (255, 255, 255), (255, 0, 0))


def test_equal_packages_give_equal_datasets(config: EmojiConfig, tmp_path: Path) -> None:
    other = EmojiConfig(packages=config.packages, output=str(tmp_path / "other"))
    datasets = []
    for folder in (build_emoji_dataset(config), build_emoji_dataset(other)):
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "emoji.json")
        datasets.append({str(path.relative_to(folder)): path.read_bytes() for path in files})
    assert datasets[0] == datasets[1]


def test_the_dataset_can_be_prepared(config: EmojiConfig, tmp_path: Path) -> None:
    shards = PrepareConfig(
        source=str(build_emoji_dataset(config)),
        output=str(tmp_path / "shards"),
        domain="emoji",
        resolution=64,
        format="png",
    )
    manifest = prepare(shards)
    assert manifest.kept + sum(manifest.reject_counts.values()) == 6  # the skin tones of these discs are duplicates
    assert not list(verify_shards(shards.output))


def test_a_finished_dataset_is_left_unchanged(config: EmojiConfig) -> None:
    before = (build_emoji_dataset(config) / "apple" / "000.png").stat().st_mtime_ns
    assert (build_emoji_dataset(config) / "apple" / "000.png").stat().st_mtime_ns == before


def test_a_folder_with_other_content_is_not_touched(config: EmojiConfig) -> None:
    Path(config.output).mkdir()
    with pytest.raises(ConfigError, match="was not created by"):
        build_emoji_dataset(config)


def test_both_packages_are_required(config: EmojiConfig) -> None:
    with pytest.raises(ConfigError, match="give both"):
        EmojiConfig(packages=config.packages[:1])


@pytest.mark.parametrize("broken", ["not a tar", "another vendor", "no index"])
def test_a_file_that_is_not_an_emoji_package_is_reported_in_one_line(tmp_path: Path, broken: str) -> None:
    path = tmp_path / "apple.tgz"
    if broken == "not a tar":
        path.write_bytes(b"nothing")
    elif broken == "another vendor":
        path = Path(package(tmp_path, "apple", "red"))
    else:
        tarfile.open(path, "w:gz").close()
    with pytest.raises(DataError, match="is not an emoji package|holds emoji of apple"):
        list(iter_glyphs(path))
