"""Miniature versions of the files of CelebA and FFHQ, and similar tables."""

import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.config import SourceConfig
from data_prep.errors import DataError
from data_prep.records import Record, Reject
from data_prep.sources.labels.labels import Labels
from data_prep.sources.labels.side_tables import load_attributes, load_identities
from e4t_errors import ConfigError

ListItems = Callable[..., list[Record | Reject]]
WriteFiles = Callable[..., Path]


@pytest.fixture
def celeba(tmp_path: Path) -> Path:
    """Four images, three of which are in the lists."""
    with zipfile.ZipFile(tmp_path / "img_align_celeba.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("img_align_celeba")
        for number in range(1, 5):
            archive.writestr(f"img_align_celeba/{number:06d}.jpg", b"")
    (tmp_path / "identity_CelebA.txt").write_text("000001.jpg 2880\n000002.jpg 2937\n000003.jpg 2880\n")
    (tmp_path / "list_attr_celeba.txt").write_text(
        "3\n5_o_Clock_Shadow Bald Young \n"
        "000001.jpg -1  1  1\n000002.jpg -1 -1  1\n000003.jpg  1  1 -1\n"
    )  # fmt: skip
    (tmp_path / "list_bbox_celeba.txt").write_text("1\nimage_id x_1 y_1 width height\n000001.jpg    95  71 226 313\n")
    return tmp_path


@pytest.fixture
def ffhq(tmp_path: Path) -> Path:
    """Two images with their metadata in ffhq-dataset-v2.json."""
    with zipfile.ZipFile(tmp_path / "images1024x1024.zip", "w") as archive:
        for name in ("00000/00000.png", "69000/69999.png"):
            archive.writestr(f"images1024x1024/{name}", b"")
    landmarks = [[131.62, 453.8], [119.04, 594.2]]
    metadata = {
        str(number): {
            "category": category,
            "metadata": {"photo_url": f"https://www.flickr.com/photos/{number}", "license": "CC0", "country": ""},
            "image": {
                "file_path": f"images1024x1024/{number - number % 1000:05d}/{number:05d}.png",
                "file_size": 1_488_194,
                "pixel_size": [1024, 1024],
                "face_landmarks": landmarks,
            },
            "thumbnail": {"file_path": f"thumbnails128x128/{number:05d}.png", "pixel_size": [128, 128]},
            "in_the_wild": {"face_rect": [667, 410, 1438, 1181], "face_quad": landmarks},
        }
        for number, category in ((0, "training"), (69_999, "validation"))
    }
    (tmp_path / "ffhq-dataset-v2.json").write_text(json.dumps(metadata))
    return tmp_path


@pytest.fixture
def faces(celeba: Path, list_items: ListItems) -> Callable[..., list[Record | Reject]]:
    """List the CelebA archive."""
    settings = {"identities": "identity_CelebA.txt", "attributes": "list_attr_celeba.txt"}

    def build(**changes: str) -> list[Record | Reject]:
        files = {name: str(celeba / file) for name, file in (settings | changes).items()}
        return list_items(celeba / "img_align_celeba.zip", **files)

    return build


def test_celeba_identities_are_used(faces: Callable[..., list[Record | Reject]]) -> None:
    assert [item.identity for item in faces() if isinstance(item, Record)] == ["2880", "2937", "2880"]


def test_celeba_attributes_become_columns_of_numbers(faces: Callable[..., list[Record | Reject]]) -> None:
    columns = [item.columns for item in faces() if isinstance(item, Record)]
    assert columns == [
        {"5_o_Clock_Shadow": -1, "Bald": 1, "Young": 1},
        {"5_o_Clock_Shadow": -1, "Bald": -1, "Young": 1},
        {"5_o_Clock_Shadow": 1, "Bald": 1, "Young": -1},
    ]


def test_the_first_column_name_of_celeba_boxes_is_skipped(celeba: Path) -> None:
    boxes = load_attributes(str(celeba / "list_bbox_celeba.txt"), SourceConfig())
    assert boxes == {"000001.jpg": {"x_1": 95, "y_1": 71, "width": 226, "height": 313}}


def test_an_image_missing_from_the_identities_is_rejected(faces: Callable[..., list[Record | Reject]]) -> None:
    rejects = [(item.source, item.reason) for item in faces() if isinstance(item, Reject)]
    assert rejects == [("img_align_celeba.zip!img_align_celeba/000004.jpg", "not in the identities file")]


@pytest.mark.parametrize("unpacked", [False, True])
def test_ffhq_json_gives_plain_columns_and_each_image_is_its_own_identity(
    unpacked: bool, ffhq: Path, list_items: ListItems
) -> None:
    source = ffhq / "images1024x1024.zip"
    if unpacked:
        zipfile.ZipFile(source).extractall(ffhq / "unpacked")
        source = ffhq / "unpacked" / "images1024x1024"
    records = list_items(
        source,
        pattern="{folder}/{identity}" if unpacked else "images1024x1024/{folder}/{identity}",
        attributes=str(ffhq / "ffhq-dataset-v2.json"),
    )
    assert [(item.identity, item.columns["category"]) for item in records if isinstance(item, Record)] == [
        ("00000", "training"),
        ("69999", "validation"),
    ]
    assert isinstance(records[0], Record)
    assert records[0].columns == {
        "category": "training",
        "photo_url": "https://www.flickr.com/photos/0",
        "license": "CC0",
        "country": "",
    }


@pytest.mark.parametrize("folder", ["images1024x1024", "thumbnails128x128", "my ffhq", "a/b"])
def test_ffhq_may_lie_in_any_folder(folder: str, ffhq: Path, write_files: WriteFiles, list_items: ListItems) -> None:
    write_files(ffhq / "set", f"{folder}/00000/00000.png", f"{folder}/69000/69999.png")
    attributes = str(ffhq / "ffhq-dataset-v2.json")
    for source, prefix in ((ffhq / "set", f"{folder}/"), (ffhq / "set" / folder, "")):
        items = list_items(source, attributes=attributes, pattern=f"{prefix}{{folder}}/{{identity}}")
        assert [item.columns["category"] for item in items if isinstance(item, Record)] == ["training", "validation"]


def test_the_first_column_of_a_csv_is_the_name_and_another_may_be_the_caption(
    tmp_path: Path, write_files: WriteFiles, list_items: ListItems
) -> None:
    write_files(tmp_path / "set", "a/0.png", "a/1.png", "b/0.png")
    (tmp_path / "attributes.csv").write_text("name,age,code,text\na/0.png,31,007,smiling\na/1,0.5,,\n")
    records = list_items(tmp_path / "set", attributes=str(tmp_path / "attributes.csv"), caption_column="text")
    assert [(item.caption, item.columns) for item in records if isinstance(item, Record)] == [
        ("smiling", {"age": 31, "code": "007"}),
        (None, {"age": 0.5, "code": None}),
        (None, {}),
    ]


def test_a_row_is_found_by_path_or_by_name_with_or_without_suffix(
    tmp_path: Path, write_files: WriteFiles, list_items: ListItems
) -> None:
    write_files(tmp_path / "set", "a/0.png", "b/0.png", "c/1.png", "c/2.png")
    (tmp_path / "who.txt").write_text("0.png Ann\nb/0.png Bob\n1 Cleo\n")
    items = list_items(tmp_path / "set", identities=str(tmp_path / "who.txt"))
    assert [getattr(item, "identity", None) for item in items] == ["Ann", "Bob", "Cleo", None]


def test_rows_of_a_json_are_told_apart_by_their_folders(
    tmp_path: Path, write_files: WriteFiles, list_items: ListItems
) -> None:
    write_files(tmp_path / "set", "cat/0.png", "dog/0.png", "eel/0.png")
    rows = {f"{animal}/0.png": {"caption": f"a {animal}"} for animal in ("cat", "dog")}
    (tmp_path / "captions.json").write_text(json.dumps(rows))
    options = {"attributes": str(tmp_path / "captions.json"), "caption_column": "caption"}
    records = list_items(tmp_path / "set", **options)
    assert [item.caption for item in records if isinstance(item, Record)] == ["a cat", "a dog", None]


def test_identities_with_folders_are_told_apart(tmp_path: Path, write_files: WriteFiles, list_items: ListItems) -> None:
    write_files(tmp_path / "set", "cat/0.png", "dog/0.png", "eel/0.png")
    (tmp_path / "who.txt").write_text("set/cat/0.png Tom\nset/dog/0.png Rex\n")
    items = list_items(tmp_path / "set", identities=str(tmp_path / "who.txt"))
    assert [getattr(item, "identity", None) for item in items] == ["Tom", "Rex", None]


def test_names_in_identity_lists_may_contain_spaces(tmp_path: Path) -> None:
    (tmp_path / "who.txt").write_text("\ufeffmy cat.png  7\n\n", encoding="utf-8")
    assert load_identities(str(tmp_path / "who.txt")) == {"my cat.png": "7"}


def test_an_identity_takes_at_most_150_bytes_of_memory(tmp_path: Path) -> None:
    (tmp_path / "who.txt").write_text("".join(f"{number:06d}.jpg {number % 100}\n" for number in range(10_000)))
    table = load_identities(str(tmp_path / "who.txt"))
    assert (sys.getsizeof(table) + sum(map(sys.getsizeof, table))) / len(table) < 150


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("who.txt", "0.png Ann\n1.png\n", "line 2: '1.png' is not a line `<image> <identity>`"),
        ("who.txt", "0.png Ann\n0.png Bob\n", "line 2: '0.png' is listed above with another identity"),
        (
            "who.txt",
            b"0.png Ann\n1.png Ren\xe9\n",
            "line 2: bytes e9 are not UTF-8; save it as UTF-8, or set",
        ),
        ("attributes.csv", b"name\n1\xe9\n", "attributes.csv, line 2: bytes e9 are not UTF-8; save it as UTF-8"),
        ("attributes.jsonl", "{}\n{\n", "attributes.jsonl cannot be read .line 2: "),
        ("attributes.jsonl", "[]\n", "line 1 is not a JSON object"),
        ("attributes.parquet", "", "attributes.parquet cannot be read"),
        ("who.txt", None, r"cannot be read \(No such file or directory\); check data.source_options.identities"),
        ("attributes.txt", "0.png 1\n", "does not start with a count"),
        ("attributes.txt", "1\nBald Young\n0.png 1 1 1 1\n", "line 3: 4 values for 2 columns"),
        ("attributes.json", "[]", "is not a JSON object by image"),
        ("attributes.json", "{", "cannot be read"),
        ("attributes.csv", None, r"cannot be read \(No such file or directory\); check data.source_options.attributes"),
    ],
)
def test_a_bad_table_is_one_clear_error(tmp_path: Path, name: str, content: bytes | str | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    setting = "identities" if name == "who.txt" else "attributes"
    with pytest.raises(DataError, match=message):
        Labels.load(SourceConfig(**{setting: str(tmp_path / name)}))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig", "cp1252"])
def test_side_tables_are_decoded(encoding: str, tmp_path: Path, write_files: WriteFiles, list_items: ListItems) -> None:
    write_files(tmp_path / "set", "a/0.png")
    (tmp_path / "attributes.csv").write_bytes("name,place\n0.png,café\n".encode(encoding))
    (tmp_path / "who.txt").write_bytes("0.png René\n".encode(encoding))
    tables = {"attributes": str(tmp_path / "attributes.csv"), "identities": str(tmp_path / "who.txt")}
    (item,) = list_items(tmp_path / "set", **tables, fallback_encoding="cp1252")
    assert isinstance(item, Record)
    assert (item.identity, item.columns) == ("René", {"place": "café"})


def test_a_caption_column_that_the_attributes_lack_is_one_clear_error(
    tmp_path: Path, write_files: WriteFiles, list_items: ListItems
) -> None:
    write_files(tmp_path / "set", "a/0.png")
    (tmp_path / "attributes.csv").write_text("name,age\na/0.png,31\n")
    with pytest.raises(ConfigError, match="have no column 'text'; check data.source_options.caption_column"):
        list_items(tmp_path / "set", attributes=str(tmp_path / "attributes.csv"), caption_column="text")


def test_rows_may_name_the_folder_of_an_archive(tmp_path: Path, list_items: ListItems) -> None:
    for name in ("cats", "dogs"):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            archive.writestr("set/0.png", b"")
            archive.writestr("set/1.png", b"")
    (tmp_path / "who.txt").write_text("cats/set/0.png Tom\ndogs/set/0.png Rex\nset/1.png Ann\n")
    items = list_items(f"{tmp_path}/*.zip", identities=str(tmp_path / "who.txt"))
    assert [getattr(item, "identity", None) for item in items] == ["Tom", "Ann", "Rex", "Ann"]


@pytest.mark.parametrize("setting", ["identities", "attributes"])
def test_side_tables_of_a_source_that_has_columns_are_refused(
    setting: str, tmp_path: Path, list_items: ListItems
) -> None:
    (tmp_path / "list.csv").write_text("image\n0.png\n")
    with pytest.raises(ConfigError, match=f"{setting} is for folders and archives, and the source .* of type table"):
        list_items(tmp_path / "list.csv", **{setting: "who.txt"})
