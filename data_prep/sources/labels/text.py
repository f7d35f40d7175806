"""Decode text whose encoding is not stated: by its byte order mark, then as UTF-8, then in a configured encoding.

Nothing is ever replaced: text that cannot be decoded is an error.
"""

import codecs
import io
from typing import BinaryIO, TextIO, cast

BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it starts with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
"""Byte order marks and the encodings that they announce."""


class TextError(ValueError):
    """The text cannot be decoded. The message says at which byte and line."""


def decode_text(data: bytes, fallback: str | None) -> str:
    """Decode a text file; ``fallback`` is the encoding of files that are not UTF-8 and have no byte order mark.

    Raises TextError.
    """
    for mark, encoding in BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return _decode(data[len(mark) :], encoding)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return _decode(data, fallback or "utf-8")
    # UTF-16 without a byte order mark is valid UTF-8 with many NUL characters.
    return text if fallback is None or "\0" not in text else _decode(data, fallback)


def decode_escaped(value: str, fallback: str | None) -> str:
    """Return text from a file that was decoded as UTF-8 with ``errors="surrogateescape"``.

    If some of its bytes were not UTF-8, it is decoded with ``fallback``. Raises TextError.
    """
    try:
        value.encode()
    except UnicodeEncodeError:
        try:
            data = value.encode(errors="surrogateescape")
        except UnicodeEncodeError as error:  # an escape sequence of JSON for half a character
            raise TextError(f"no character {error.object[error.start]!a}") from error
        return _decode(data, fallback or "utf-8")
    return value


def open_text(file: BinaryIO, fallback: str | None) -> TextIO:
    """Open a text file whose lines are decoded while they are read; line ends are not translated.

    Without a byte order mark, bytes that are not UTF-8 become lone surrogates, for ``decode_escaped``. A file that
    begins with NUL characters may be UTF-16 and is decoded with ``fallback``.
    """
    buffered = io.BufferedReader(cast("io.RawIOBase", file))
    start = buffered.peek(4)[:4]
    for mark, encoding in BYTE_ORDER_MARKS:
        if start.startswith(mark):
            buffered.read(len(mark))
            return io.TextIOWrapper(buffered, encoding=encoding, newline="")
    if fallback and b"\0" in start:
        return io.TextIOWrapper(buffered, encoding=fallback, newline="")
    return io.TextIOWrapper(buffered, encoding="utf-8", errors="surrogateescape", newline="")


def _decode(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TextError(
            f"line {line}: bytes {data[error.start : error.end].hex(' ')} are not {encoding.upper()}"
        ) from error
