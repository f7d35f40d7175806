"""Captions of every kind of source, as written."""

import codecs
import csv
import io
import json
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.config import PrepareConfig, SourceConfig
from data_prep.errors import DataError, SampleRejected
from data_prep.records import Ignored, Record, Reject
from data_prep.sources import open_source
from data_prep.sources.labels.captions import (
    MAX_CAPTION_BYTES,
    CaptionFiles,
    caption_from_file,
    caption_from_value,
    lookup,
)

ConfigOf = Callable[..., PrepareConfig]
Captions = Callable[..., list[str | None]]
OPTIONS = SourceConfig()

bounded = settings(max_examples=50, deadline=None)


@pytest.fixture
def captions(config_of: ConfigOf) -> Captions:
    """List a source and return the caption of every image, or the reason why it is rejected."""

    def read(path: Path, **options: Any) -> list[str | None]:
        source, found = open_source(config_of(path, **options)), list[str | None]()
        for item in source:
            if isinstance(item, Ignored):
                continue
            try:
                found.append(source.caption(item) if isinstance(item, Record) else item.reason)
            except SampleRejected as error:
                found.append(error.reason)
        return found

    return read


def write(folder: Path, files: dict[str, bytes]) -> Path:
    """Write files into a folder."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize(
    ("image", "files", "found"),
    [
        ("a.jpg", ["a.txt"], "a.txt"),
        ("a.jpg", ["a.caption"], "a.caption"),
        ("a.jpg", ["a.caption", "a.txt"], "a.txt"),
        ("a.jpg", ["a.txt", "a.jpg.txt"], "a.jpg.txt"),
        ("A.JPG", ["A.TXT"], "A.TXT"),
        ("A.JPG", ["A.TXT", "a.txt"], "A.TXT"),
        ("A.JPG", ["a.txt"], "a.txt"),
        ("A.JPG", ["A.txt", "A.TXT"], "A.txt"),
        ("A.JPG", ["A.tXt", "A.TXT"], None),
        ("e\u0301.jpg", ["é.txt"], "é.txt"),
        ("x/a.jpg", ["y/a.txt", "a.txt", "X/a.txt"], None),
        ("v1.2.jpg", ["v1.txt"], None),
        ("a.jpg", ["a.md"], None),
    ],
)
def test_the_caption_file_has_the_name_of_the_image(image: str, files: list[str], found: str | None) -> None:
    assert CaptionFiles(files, [image], OPTIONS).find(image) == found


def test_names_that_differ_only_in_letter_case_are_told_apart() -> None:
    files = CaptionFiles(["a.txt", "B.TXT"], ["a.jpg", "A.jpg", "b.jpg", "b.png"], OPTIONS)
    assert [files.find(image) for image in ("a.jpg", "A.jpg", "b.jpg", "b.png")] == ["a.txt", None, "B.TXT", "B.TXT"]


@pytest.mark.parametrize("suffix", [".caption", ".CAPTION", ".desc.txt"])
def test_the_suffix_can_be_set(suffix: str, tmp_path: Path, captions: Captions) -> None:
    write(tmp_path, {"a/0.png": b"", f"a/0{suffix.lower()}": b"configured", "a/0.txt": b"default"})
    assert captions(tmp_path, caption_suffix=suffix) == ["configured"]


@pytest.mark.parametrize(
    ("choice", "texts"),
    [("first", ["one"]), ("join", ["one two\u2028half three"]), ("random", ["one", "two\u2028half", "three"])],
)
def test_the_choice_selects_among_the_lines_of_a_file(choice: Any, texts: list[str]) -> None:
    data = "\ufeff\n one\r\n\r\n two\u2028half \rthree".encode()
    options = SourceConfig(caption_choice=choice)
    assert {caption_from_file(data, options, f"key{number}") for number in range(50)} == {*texts}


@pytest.mark.parametrize(
    ("choice", "texts"), [("first", ["a cat"]), ("join", ["a cat, a pet, 7"]), ("random", ["a cat", "a pet", "7"])]
)
@pytest.mark.parametrize(
    "value",
    [
        ["a cat", None, " ", "a pet", 7],
        [["a cat"], ["a pet", [" 7 "]]],
        '["a cat", "", "a pet", "7"]',
        "['a cat', 'a pet',\n \"7\"]",
        (b"\xff\xfe" + "['a cat', 'a pet', '7']".encode("utf-16-le")),
    ],
)
def test_the_choice_selects_among_the_texts_of_a_list(choice: Any, texts: list[str], value: object) -> None:
    options = SourceConfig(caption_choice=choice)
    found = {caption_from_value(value, options, f"key{number}") for number in range(50)}
    assert found == {*texts}


def test_the_random_choice_depends_only_on_the_key() -> None:
    options = SourceConfig(caption_choice="random")
    chosen = [caption_from_value(["a", "b", "c"], options, f"key{number}") for number in range(20)]
    assert chosen == [caption_from_value(["a", "b", "c"], options, f"key{number}") for number in range(20)]
    assert set(chosen) == {"a", "b", "c"}


@pytest.mark.parametrize(
    "text",
    [
        "[a cat]",
        "['a' 'cat']",
        "[1]",
        "['a', cat]",
        "['a'",
        "{'a': 1}",
        "null",
        "nan",
        "\x1b[31m",
        "a\x07b\x85c\u2028d",
    ],
)
def test_other_text_is_not_taken_for_a_list(text: str) -> None:
    assert caption_from_value(text, OPTIONS, "key") == text


@pytest.mark.parametrize(
    "value", [None, "", " \n", [], [None, ""], {}, {"text": "x"}, float("nan"), True, b"", "[]", "['']"]
)
def test_an_empty_value_is_no_caption(value: object) -> None:
    assert caption_from_value(value, OPTIONS, "key") is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("text", "plain"),
        ("meta.text", "exact"),
        ("struct.text", "field"),
        ("struct.deep.text", "deep"),
        ("json.text", "parsed"),
        ("structs.text", ["first", "second"]),
        ("nothing", None),
        ("text.more", None),
        ("struct.nothing", None),
    ],
)
def test_a_dotted_name_is_a_field_of_a_struct(name: str, value: object) -> None:
    row = {
        "text": "plain",
        "meta.text": "exact",
        "meta": {"text": "hidden"},
        "struct": {"text": "field", "deep": {"text": "deep"}},
        "json": '{"text": "parsed"}',
        "structs": [{"text": "first"}, {"text": "second"}],
    }
    assert lookup(row, name) == value


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"caf\xe9", "caption is not UTF-8"),
        ("a cat".encode("utf-16-le"), "caption holds NUL characters"),
        (b"x" * (MAX_CAPTION_BYTES + 1), "caption file too large"),
        (codecs.BOM_UTF16_LE + b"a", "caption is not UTF-8"),
    ],
)
def test_a_caption_that_cannot_be_stored_as_written_rejects_the_image(
    data: bytes, reason: str, tmp_path: Path, captions: Captions
) -> None:
    assert captions(write(tmp_path, {"a/0.png": b"", "a/0.txt": data})) == [reason]


def test_the_fallback_encoding_decodes_captions_that_are_not_utf8(tmp_path: Path, captions: Captions) -> None:
    write(tmp_path, {"a/0.png": b"", "a/0.txt": b"caf\xe9", "a/1.png": b"", "a/1.txt": "café".encode()})
    assert captions(tmp_path, fallback_encoding="cp1252") == ["café", "café"]


@pytest.mark.parametrize(
    ("data", "options", "found"),
    [
        (b'{"caption": "a cat"}', {}, "a cat"),
        (b'\xef\xbb\xbf{"caption": ["a cat", "a pet"]}', {"caption_choice": "join"}, "a cat, a pet"),
        (b'{"meta": {"text": "a cat"}}', {"caption_column": "meta.text"}, "a cat"),
        (b'{"text": "a cat"}', {}, None),
        (b"[]", {}, None),
        (b"{", {}, "bad json in caption file"),
        (b'{"caption": "caf\xe9"}', {}, "caption is not UTF-8"),
        (b'{"caption": "\\ud83d"}', {}, "caption is not UTF-8"),
        (b'{"caption": "a\\u0000b"}', {}, "caption holds NUL characters"),
    ],
)
def test_a_json_caption_file_holds_the_caption_under_a_key(
    data: bytes, options: dict[str, Any], found: str | None, tmp_path: Path, captions: Captions
) -> None:
    write(tmp_path, {"a/0.png": b"", "a/0.json": data})
    assert captions(tmp_path, caption_suffix=".json", **options) == [found]


def test_a_configured_column_is_preferred_to_a_file_and_a_file_to_nothing(tmp_path: Path, captions: Captions) -> None:
    write(tmp_path / "set", {f"a/{number}.{kind}": b"file" for number in range(2) for kind in ("png", "txt")})
    (tmp_path / "list.csv").write_text("name,text\n0.png,column\n1.png,\n")
    attributes = str(tmp_path / "list.csv")
    assert captions(tmp_path / "set", attributes=attributes, caption_column="text") == ["column", "file"]
    assert captions(tmp_path / "set", attributes=attributes) == ["file", "file"]


@pytest.mark.parametrize("name", ["list.csv", "list.jsonl", "list.parquet", "list.json", "rows.json"])
def test_attributes_hold_lists_and_structs(name: str, tmp_path: Path, captions: Captions) -> None:
    folders = write(tmp_path / "set", {"cat/0.png": b"", "dog/0.png": b"", "eel/0.png": b""})
    rows: list[dict[str, Any]] = [
        {"name": f"{animal}/0.png", "meta": {"texts": [f"a {animal}", f"the {animal}"]}} for animal in ("cat", "dog")
    ]
    if name == "list.csv":
        lines = [[row["name"], json.dumps(row["meta"])] for row in rows]
        with (tmp_path / name).open("w") as file:
            csv.writer(file).writerows([["name", "meta"], *lines])
    elif name == "list.parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / name)
    elif name == "list.jsonl":
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
    elif name == "rows.json":
        (tmp_path / name).write_text(json.dumps(rows))
    else:
        (tmp_path / name).write_text(json.dumps({row["name"]: {"meta": row["meta"]} for row in rows}))
    options = {"attributes": str(tmp_path / name), "caption_column": "meta.texts"}
    assert captions(folders, **options) == ["a cat", "a dog", None]
    assert captions(folders, **options, caption_choice="join") == ["a cat, the cat", "a dog, the dog", None]


def test_a_json_of_captions_by_image_needs_no_column(tmp_path: Path, captions: Captions) -> None:
    folder = write(tmp_path / "set", {"a/0.png": b"", "a/1.png": b""})
    (tmp_path / "list.json").write_text(json.dumps({"a/0.png": "zero", "a/1.png": ["one", "uno"]}))
    assert captions(folder, attributes=str(tmp_path / "list.json"), caption_column="caption") == ["zero", "one"]


def test_several_rows_of_an_image_are_a_list_of_captions(tmp_path: Path, captions: Captions) -> None:
    folder = write(tmp_path / "set", {"a/0.png": b"", "a/1.png": b""})
    (tmp_path / "list.csv").write_text("image,caption\n0.png,zero\n0.png,null\n1.png,one\n0.png,nil\n")
    options = {"attributes": str(tmp_path / "list.csv"), "caption_column": "caption", "caption_choice": "join"}
    assert captions(folder, **options) == ["zero, null, nil", "one"]


@pytest.mark.parametrize("kind", ["list", "large list", "struct", "text", "binary"])
@pytest.mark.parametrize("source_type", ["table", "datasets"])
def test_parquet_columns_of_any_kind_hold_captions(
    kind: str, source_type: str, tmp_path: Path, captions: Captions
) -> None:
    texts = ["a café", "", None]
    text, wrap = pyarrow.string(), pyarrow.list_(pyarrow.string())
    columns: dict[str, tuple[Any, list[Any]]] = {
        "list": (wrap, [t and [t, "more"] for t in texts]),
        "large list": (pyarrow.large_list(text), [t and [t, "more"] for t in texts]),
        "struct": (pyarrow.struct([("text", wrap)]), [{"text": [t]} for t in texts]),
        "text": (text, texts),
        "binary": (pyarrow.binary(), [None if t is None else t.encode() for t in texts]),
    }
    arrow_type, values = columns[kind]
    images: list[Any] = ["0.png"] * 3
    if source_type == "datasets":
        images = [{"bytes": b"x", "path": None}] * 3
    values = [value or None for value in values] if kind.endswith("list") else values
    table = pyarrow.table({"image": images, "texts": pyarrow.array(values, arrow_type)})
    pyarrow.parquet.write_table(table, tmp_path / "list.parquet")
    column = "texts.text" if kind == "struct" else "texts"
    assert captions(tmp_path / "list.parquet", caption_column=column) == ["a café", None, None]


@pytest.mark.parametrize("fallback", [None, "cp1252"])
def test_parquet_text_that_is_not_utf8_rejects_its_row(
    fallback: str | None, tmp_path: Path, captions: Captions
) -> None:
    texts = pyarrow.array([b"fine", b"caf\xe9"]).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"image": ["0", "1"], "text": texts}), tmp_path / "list.parquet")
    found = captions(tmp_path / "list.parquet", type="table", caption_column="text", fallback_encoding=fallback)
    assert found == ["fine", "caption is not UTF-8" if fallback is None else "café"]


@pytest.mark.parametrize(
    ("encoding", "fallback", "found"),
    [
        ("utf-8", None, ["café", "tea"]),
        ("utf-8-sig", None, ["café", "tea"]),
        ("utf-16", None, ["café", "tea"]),
        ("utf-32", None, ["café", "tea"]),
        ("cp1252", "cp1252", ["café", "tea"]),
        ("cp1252", None, ["caption is not UTF-8", "tea"]),
    ],
)
def test_tables_are_decoded(
    encoding: str, fallback: str | None, found: list[str], tmp_path: Path, captions: Captions
) -> None:
    (tmp_path / "list.csv").write_bytes("image,text\n0.png,café\n1.png,tea\n".encode(encoding))
    assert captions(tmp_path / "list.csv", caption_column="text", fallback_encoding=fallback) == found


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
@pytest.mark.parametrize("encoding", ["cp1252", "utf-16-le", "utf-8"])
def test_names_of_columns_are_decoded(suffix: str, encoding: str, tmp_path: Path, captions: Captions) -> None:
    rows = {"csv": "image,légende\n0.png,café\n", "jsonl": '{"image": "0.png", "légende": "café"}\n'}
    path = tmp_path / f"list{suffix}"
    path.write_bytes(rows[suffix[1:]].encode(encoding))
    assert captions(path, caption_column="légende", fallback_encoding=encoding) == ["café"]


def test_json_lines_are_decoded_before_they_are_parsed(tmp_path: Path, captions: Captions) -> None:
    path = tmp_path / "list.jsonl"
    path.write_bytes('{"image": "0.png", "text": "表"}\n'.encode("shift_jis"))  # its second byte is a backslash
    assert captions(path, caption_column="text", fallback_encoding="shift_jis") == ["表"]


def test_names_of_columns_that_are_not_utf8_are_one_clear_error(tmp_path: Path, captions: Captions) -> None:
    (tmp_path / "list.csv").write_bytes("image,légende\n0.png,café\n".encode("cp1252"))
    with pytest.raises(
        DataError, match=r"list.csv, line 1: bytes e9 are not UTF-8; save it as UTF-8, or set data.sour"
    ):
        captions(tmp_path / "list.csv", caption_column="légende")


def test_the_reject_says_which_bytes_are_not_utf8(tmp_path: Path, config_of: ConfigOf) -> None:
    (tmp_path / "list.csv").write_bytes(b"image,text\n0.png,caf\xe9\n")
    (item,) = open_source(config_of(tmp_path / "list.csv", caption_column="text"))
    assert isinstance(item, Reject)
    assert item.cause == "line 1: bytes e9 are not UTF-8"


def test_a_column_that_is_not_utf8_rejects_its_row(tmp_path: Path, captions: Captions) -> None:
    (tmp_path / "list.csv").write_bytes(b"image,place\n0.png,caf\xe9\n1.png,tea\n")
    assert captions(tmp_path / "list.csv") == ["text is not UTF-8", None]


one_line = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n"), min_size=1).map(str.strip)
plain = one_line.filter(lambda text: text and not text.startswith(("[", "\ufeff")))


def table_bytes(texts: Iterable[str], suffix: str) -> bytes:
    """Return a table with these captions."""
    rows = [{"image": f"{number}.png", "text": text} for number, text in enumerate(texts)]
    if suffix == ".parquet":
        buffer = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
        return buffer.getvalue()
    if suffix == ".jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    lines = io.StringIO(newline="")
    writer = csv.DictWriter(lines, ["image", "text"], delimiter="\t" if suffix == ".tsv" else ",")
    writer.writeheader()
    writer.writerows(rows)
    return lines.getvalue().encode()


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".jsonl"])
def test_captions_of_tables_arrive_as_written(
    suffix: str, tmp_path_factory: pytest.TempPathFactory, config_of: ConfigOf
) -> None:
    path = tmp_path_factory.mktemp("tables") / f"list{suffix}"

    @bounded
    @given(texts=st.lists(plain, min_size=1))
    def check(texts: list[str]) -> None:
        path.write_bytes(table_bytes(texts, suffix))
        items = list(open_source(config_of(path, type="table", caption_column="text")))
        assert [item.caption for item in items if isinstance(item, Record)] == texts

    check()


def test_captions_of_metadata_files_arrive_as_written(
    tmp_path_factory: pytest.TempPathFactory, config_of: ConfigOf
) -> None:
    folder = tmp_path_factory.mktemp("images")
    write(folder, {f"a/{number}.png": b"" for number in range(3)})

    @bounded
    @given(texts=st.lists(plain, min_size=3, max_size=3))
    def check(texts: list[str]) -> None:
        rows = [{"file_name": f"a/{number}.png", "text": text} for number, text in enumerate(texts)]
        (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        items = list(open_source(config_of(folder)))
        assert [item.caption for item in items if isinstance(item, Record)] == texts

    check()


@bounded
@given(text=plain, encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]))
def test_captions_of_files_arrive_as_written(text: str, encoding: str) -> None:
    assert caption_from_file(f"\n{text} \nmore".encode(encoding), OPTIONS, "key") == text


@bounded
@given(
    value=st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_any_json_value_is_a_caption_no_caption_or_a_reject(value: object) -> None:
    data = json.dumps({"caption": value}).encode()
    try:
        caption = caption_from_file(data, SourceConfig(caption_suffix=".json"), "key")
    except SampleRejected as error:
        assert error.reason in ("caption is not UTF-8", "caption holds NUL characters")
    else:
        assert caption is None or caption.strip() == caption != ""


def test_rows_without_a_caption_are_marked_only_if_one_is_configured(tmp_path: Path, config_of: ConfigOf) -> None:
    (tmp_path / "list.csv").write_text("image,text\n0.png,zero\n1.png,\n")
    path = tmp_path / "list.csv"
    for options, found in (({"caption_column": "text"}, [True, False]), ({}, [None, None])):
        items: list[Record | Reject] = list(open_source(config_of(path, **options)))  # type: ignore[arg-type]
        assert [item.has_caption for item in items if isinstance(item, Record)] == found


@pytest.mark.parametrize(("options", "found"), [({}, [True, None]), ({"caption_suffix": ".txt2"}, [False, False])])
def test_images_without_a_caption_file_are_marked_only_if_one_is_configured(
    options: dict[str, Any], found: list[bool | None], tmp_path: Path, config_of: ConfigOf
) -> None:
    write(tmp_path, {"a/0.png": b"", "a/0.txt": b"", "a/1.png": b""})
    items = list(open_source(config_of(tmp_path, **options)))
    assert [item.has_caption for item in items if isinstance(item, Record)] == found


def shard(path: Path, members: dict[str, bytes]) -> Path:
    """Write a webdataset shard."""
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize(
    ("members", "options", "found"),
    [
        ({"0.json": b'{"caption": "json"}', "0.txt": b"file"}, {}, "file"),
        ({"0.json": b'{"caption": "json"}', "0.txt": b" "}, {}, "json"),
        ({"0.json": b'{"text": "json"}', "0.txt": b"file"}, {"caption_column": "text"}, "json"),
        ({"0.json": b'{"text": ""}', "0.txt": b"file"}, {"caption_column": "text"}, "file"),
        ({"0.json": b'{"meta": {"texts": [" one", "two"]}}'}, {"caption_column": "meta.texts"}, "one"),
        ({"0.json": b'{"caption": "json"}', "0.txt": b"file"}, {"caption_suffix": ".json"}, "json"),
        ({"0.json": b'\xef\xbb\xbf{"caption": "json"}'}, {}, "json"),
        ({"0.json": b'{"caption": "caf\xe9"}'}, {}, "text is not UTF-8"),
        ({"0.json": b'{"caption": "caf\xe9"}'}, {"fallback_encoding": "cp1252"}, "café"),
        ({"0.json": b'{"place": "\\ud83d"}'}, {}, "text is not UTF-8"),
        ({"0.json": b'{"caption": "\\ud83d"}'}, {}, "caption is not UTF-8"),
        ({"0.cls": b"caf\xe9"}, {}, "text is not UTF-8"),
        ({"0.caption": b"file"}, {}, "file"),
        ({"0.jpg.txt": b"whole", "0.txt": b"short"}, {}, "whole"),
        ({"0.TXT": b"file"}, {}, "file"),
        ({"0.txt": b"caf\xe9"}, {}, "caption is not UTF-8"),
        ({}, {}, None),
    ],
)
def test_captions_of_shards(
    members: dict[str, bytes], options: dict[str, Any], found: str | None, tmp_path: Path, captions: Captions
) -> None:
    path = shard(tmp_path / "set.tar", {"0.jpg": b"image", **members})
    assert captions(path, type="shards", **options) == [found]


@pytest.mark.parametrize("container", ["folder", "archive", "shards"])
def test_a_caption_file_that_must_not_be_read_rejects_the_image(
    container: str, tmp_path: Path, captions: Captions
) -> None:
    folder = write(tmp_path / "set", {"a/0.png": b"image"})
    (folder / "a" / "0.txt").symlink_to("nowhere.txt")
    if container != "folder":
        with tarfile.open(tmp_path / "set.tar", "w") as archive:
            archive.add(folder, ".")
    path = folder if container == "folder" else tmp_path / "set.tar"
    assert captions(path, type=container) == ["caption cannot be read"]
