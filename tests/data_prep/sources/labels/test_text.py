import codecs

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.sources.labels.text import TextError, decode_escaped, decode_text

ENCODINGS = {
    "utf-8": b"",
    "utf-8 with mark": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}
bounded = settings(max_examples=50, deadline=None)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff"))


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("fallback", [None, "cp1252"])
@bounded
@given(text=texts)
def test_text_with_a_byte_order_mark_or_in_utf8_is_decoded_exactly(
    encoding: str, fallback: str | None, text: str
) -> None:
    assert decode_text(ENCODINGS[encoding] + text.encode(encoding.split(" ")[0]), fallback) == text


@pytest.mark.parametrize("encoding", ["cp1252", "shift_jis", "utf-16-le"])
def test_other_text_is_decoded_with_the_fallback(encoding: str) -> None:
    text = "café" if encoding == "cp1252" else "日本の猫"
    assert decode_text(text.encode(encoding), encoding) == text


def test_utf16_without_a_byte_order_mark_is_decoded_with_the_fallback() -> None:
    assert decode_text("a cat".encode("utf-16-le"), "utf-16-le") == "a cat"


@pytest.mark.parametrize(
    ("data", "fallback", "message"),
    [
        (b"first\nca\xe9", None, "line 2: bytes e9 are not UTF-8"),
        (b"\x81", "cp1252", "line 1: bytes 81 are not CP1252"),
        (codecs.BOM_UTF16_LE + b"a", None, "line 1: bytes 61 are not UTF-16-LE"),
        (codecs.BOM_UTF16_LE + b"\x00\xd8", "cp1252", "line 1: bytes 00 d8 are not UTF-16-LE"),
    ],
)
def test_text_that_cannot_be_decoded_is_an_error_with_its_line(data: bytes, fallback: str | None, message: str) -> None:
    with pytest.raises(TextError, match=message):
        decode_text(data, fallback)


@bounded
@given(data=st.binary())
def test_bytes_are_decoded_exactly_or_not_at_all(data: bytes) -> None:
    try:
        text = decode_text(data, None)
    except TextError:
        return
    assert any(mark + text.encode(name.split(" ")[0]) == data for name, mark in ENCODINGS.items())


def test_escaped_bytes_are_decoded_with_the_fallback() -> None:
    cell = b"caf\xe9".decode(errors="surrogateescape")
    assert decode_escaped(cell, "cp1252") == "café"
    with pytest.raises(TextError, match="bytes e9 are not UTF-8"):
        decode_escaped(cell, None)
    with pytest.raises(TextError, match=r"no character '\\ud800'"):
        decode_escaped("\ud800", "cp1252")
