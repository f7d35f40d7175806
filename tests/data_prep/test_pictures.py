import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.config import PrepareConfig
from data_prep.pictures import Rejected, encode, load_picture

Draw = Callable[..., Image.Image]
ConfigFor = Callable[..., PrepareConfig]


def damaged(folder: Path, draw: Draw) -> dict[str, Path]:
    """Files that must not come into a set, by the reason for it (the part before the colon)."""
    jpg, frames = io.BytesIO(), [draw(seed) for seed in range(3)]
    draw(1, (200, 200)).save(jpg, "JPEG")
    png = io.BytesIO()
    draw(2).save(png, "PNG")
    broken = bytearray(png.getvalue())
    broken[45:60] = bytes(15)
    made = {
        "truncated or damaged: half a jpg": jpg.getvalue()[:3000],
        "truncated or damaged: png with a hole": bytes(broken),
        "empty file: nothing": b"",
        "not a picture: text": b"I am no picture",
        "not a picture: only the magic bytes of png": b"\x89PNG\r\n\x1a\n",
    }
    paths = {}
    for index, (name, data) in enumerate(made.items()):
        paths[name] = folder / f"bytes{index}.png"
        paths[name].write_bytes(data)
    frames[0].save(folder / "film.gif", save_all=True, append_images=frames[1:])
    frames[0].save(folder / "film.webp", save_all=True, append_images=frames[1:])
    frames[0].save(folder / "pages.tif", save_all=True, append_images=frames[1:])
    draw(3, (15, 100)).save(folder / "thin.png")
    draw(4, (101, 100)).save(folder / "bomb.png")
    Image.new("F", (20, 20)).save(folder / "float.tif")
    return paths | {
        "several frames: gif": folder / "film.gif",
        "several frames: webp": folder / "film.webp",
        "several frames: tiff": folder / "pages.tif",
        "too small: 15 x 100": folder / "thin.png",
        "too many pixels: 10100": folder / "bomb.png",
        "floating-point pixels: tiff": folder / "float.tif",
        "unreadable: a folder": folder,
    }


def test_what_is_no_good_picture_is_rejected_by_reason(tmp_path: Path, draw: Draw, config_for: ConfigFor) -> None:
    config = config_for(max_pixels=10_000 * 4)
    for name, path in damaged(tmp_path, draw).items():
        limit = config_for(max_pixels=10_000) if "pixels: 1" in name else config
        with pytest.raises(Rejected) as caught:
            load_picture(path, limit)
        assert str(caught.value) == name.partition(":")[0], name


def test_a_bomb_beyond_pillows_own_limit_is_rejected_without_decoding_it(tmp_path: Path, config_for: ConfigFor) -> None:
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    with pytest.raises(Rejected, match="too many pixels"):
        load_picture(tmp_path / "bomb.png", config_for())


def test_a_picture_of_the_right_size_keeps_every_pixel(tmp_path: Path, draw: Draw, config_for: ConfigFor) -> None:
    config = config_for(resolution=20)
    draw(1, (20, 20)).save(tmp_path / "a.png")
    picture = load_picture(tmp_path / "a.png", config)
    stored = Image.open(io.BytesIO(encode(picture.image, config)))
    assert np.array_equal(np.asarray(stored), np.asarray(draw(1, (20, 20))))


def test_the_middle_square_is_kept(tmp_path: Path, draw: Draw, config_for: ConfigFor) -> None:
    draw(1, (31, 20)).save(tmp_path / "a.png")
    picture = load_picture(tmp_path / "a.png", config_for(resolution=20))
    assert (picture.original_size, picture.crop_box) == ((31, 20), (5, 0, 25, 20))
    assert np.array_equal(np.asarray(picture.image), np.asarray(draw(1, (31, 20)))[:, 5:25])


def test_a_larger_picture_is_shrunk_without_aliasing(tmp_path: Path, config_for: ConfigFor) -> None:
    stripes = np.zeros((128, 128, 3), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    shrunk = np.asarray(load_picture(tmp_path / "stripes.png", config_for(resolution=16)).image, dtype=int)
    assert np.abs(shrunk[:, 2:-2] - 127).max() <= 8


def test_a_picture_on_its_side_is_turned_upright(tmp_path: Path, config_for: ConfigFor) -> None:
    image, exif = Image.new("RGB", (32, 16), "blue"), Image.Exif()
    image.paste("red", (0, 0, 16, 16))
    exif[0x0112] = 6
    image.save(tmp_path / "side.png", exif=exif)
    picture = load_picture(tmp_path / "side.png", config_for(resolution=16))
    assert picture.original_size == (16, 32)
    assert (picture.image.getpixel((8, 0)), picture.image.getpixel((8, 15))) == ((255, 0, 0), (0, 0, 255))


def test_exif_that_makes_no_sense_costs_no_picture(tmp_path: Path, draw: Draw, config_for: ConfigFor) -> None:
    draw(1).save(tmp_path / "odd.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert load_picture(tmp_path / "odd.jpg", config_for()).original_size == (24, 20)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_becomes_white(tmp_path: Path, config_for: ConfigFor, mode: str) -> None:
    image = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 8, 16))
    path = tmp_path / "a.png"
    if mode == "P":
        palette = Image.new("P", (16, 16), 1)
        palette.putpalette([0, 0, 0, 255, 0, 0])
        palette.paste(0, (0, 0, 8, 16))
        palette.save(path, transparency=1)
    else:
        image.convert(mode).save(path)
    kept = load_picture(path, config_for(resolution=16)).image
    assert (kept.getpixel((2, 8)), kept.getpixel((13, 8))) == ((0, 0, 0), (255, 255, 255))


def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path, config_for: ConfigFor) -> None:
    levels = np.linspace(0, 65535, 256, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(levels).save(tmp_path / "deep.png")
    pgm = b"P5 16 16 65535\n" + levels.astype(">u2").tobytes()
    (tmp_path / "deep.pgm").write_bytes(pgm)
    for name in ("deep.png", "deep.pgm"):
        kept = np.asarray(load_picture(tmp_path / name, config_for(resolution=16)).image)
        assert np.array_equal(kept[..., 0].ravel(), np.arange(256)), name
        assert np.array_equal(kept[..., 0], kept[..., 2]), name


def test_cmyk_grey_and_palette_pictures_become_rgb(tmp_path: Path, config_for: ConfigFor) -> None:
    for mode, suffix in (("CMYK", "jpg"), ("L", "jpg"), ("1", "png"), ("P", "gif"), ("YCbCr", "jpg")):
        path = tmp_path / f"{mode}.{suffix}"
        Image.new("RGB", (16, 16), "white").convert(mode).save(path)
        kept = load_picture(path, config_for(resolution=16)).image
        assert (kept.mode, kept.getpixel((8, 8))) == ("RGB", (255, 255, 255)), mode


def test_the_preview_that_a_phone_puts_behind_a_photograph_does_no_harm(
    tmp_path: Path, draw: Draw, config_for: ConfigFor
) -> None:
    Image.new("RGB", (32, 32), "red").save(
        tmp_path / "phone.jpg", "MPO", save_all=True, append_images=[Image.new("RGB", (32, 32), "blue")]
    )
    red, _, blue = np.asarray(load_picture(tmp_path / "phone.jpg", config_for()).image)[8, 8]
    assert red > 250
    assert blue < 5


@pytest.mark.parametrize("codec", ["png", "webp", "jpg"])
def test_the_same_picture_is_the_same_bytes_and_carries_no_metadata(
    tmp_path: Path, draw: Draw, config_for: ConfigFor, codec: str
) -> None:
    config, exif = config_for(codec=codec), Image.Exif()
    exif[0x010E] = "taken at home"
    draw(1, (16, 16)).save(tmp_path / "a.jpg", exif=exif, icc_profile=b"a colour profile", comment=b"hello")
    first, second = (encode(load_picture(tmp_path / "a.jpg", config).image, config) for _ in range(2))
    assert first == second
    for secret in (b"taken at home", b"colour profile", b"hello"):
        assert secret not in first
    assert Image.open(io.BytesIO(first)).size == (16, 16)


def test_lossless_webp_keeps_every_pixel(tmp_path: Path, draw: Draw, config_for: ConfigFor) -> None:
    config = config_for(codec="webp", lossless=True)
    stored = Image.open(io.BytesIO(encode(draw(1, (16, 16)), config)))
    assert np.array_equal(np.asarray(stored.convert("RGB")), np.asarray(draw(1, (16, 16))))
