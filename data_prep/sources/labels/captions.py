"""Find the caption of an image: in a file next to it, or in a column that may hold lists and structs."""

import ast
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from unicodedata import normalize

from data_prep.config import SourceConfig
from data_prep.errors import SampleRejected
from data_prep.sources.labels.text import TextError, decode_escaped, decode_text
from data_prep.sources.names import split_suffix

MAX_CAPTION_BYTES = 2**20
"""Images whose caption file has more bytes are rejected."""
NOT_TEXT, HAS_NUL, UNREADABLE = "caption is not UTF-8", "caption holds NUL characters", "caption cannot be read"
"""Reject reasons."""
_STRING = r"""(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')"""
_LIST_OF_STRINGS = re.compile(rf"\[\s*(?:{_STRING}(?:\s*,\s*{_STRING})*)?\s*,?\s*\]", re.DOTALL)
"""A list of strings as JSON or Python write it."""


def caption_suffixes(options: SourceConfig) -> tuple[str, ...]:
    """Return the suffixes of caption files; if an image has several files, that with the first suffix is taken."""
    return (options.caption_suffix, ".caption") if options.caption_suffix == ".txt" else (options.caption_suffix,)


def is_caption_path(path: str, options: SourceConfig) -> bool:
    """Return whether the path has a suffix of caption files; letter case does not matter."""
    return path.lower().endswith(tuple(suffix.lower() for suffix in caption_suffixes(options)))


class CaptionFiles:
    """Caption files of one folder or archive, by the image that they belong to.

    The caption of ``a.jpg`` is ``a.jpg.txt`` or else ``a.txt``. Letter case is ignored in the suffix, and in the whole
    name if that leaves one caption file and one image.
    """

    def __init__(self, paths: Iterable[str], images: Iterable[str], options: SourceConfig) -> None:
        """Index the caption files among ``paths``; ``images`` are the paths of all images."""
        self._suffixes = [suffix.lower() for suffix in caption_suffixes(options)]
        self._files = dict[str, tuple[str, ...]]()  # by folded path; mostly one, and there may be millions
        for path in paths:
            folded = _fold(path)
            if folded.endswith(tuple(self._suffixes)):
                self._files[folded] = (*self._files.get(folded, ()), path)
        self._image_names = dict[str, str | None]()  # name without suffix by folded name, None if there are several
        for image in images if self._files else ():
            name = split_suffix(image)[0]
            if self._image_names.setdefault(_fold(name), name) != name:
                self._image_names[_fold(name)] = None

    def find(self, image: str) -> str | None:
        """Return the path of the caption file of an image, or None."""
        return next(iter(self.find_all(image)), None)

    def find_all(self, image: str) -> list[str]:
        """Return the paths of all caption files that belong to an image, the one to be read first."""
        if not self._files:
            return []
        name = split_suffix(image)[0]
        folded = _fold(name)
        alone = self._image_names.get(folded) is not None
        matches = (
            _only_match(self._files.get(start + suffix, ()), whole, suffix, alone)
            for whole, start in ((image, _fold(image)), (name, folded))
            for suffix in self._suffixes
        )
        return [path for path in matches if path]


def _only_match(files: tuple[str, ...], name: str, suffix: str, alone: bool) -> str | None:
    """Return the caption file of an image name; if the image is ``alone``, letter case is ignored in the name."""
    same_name = [path for path in files if path[: -len(suffix)] == name]
    found = same_name or (files if alone else ())
    # Of A.txt and A.TXT the usual one counts.
    return found[0] if len(found) == 1 else next((path for path in same_name if path[len(name) :].islower()), None)


def _fold(path: str) -> str:
    """Return the path with its file name in a form that ignores letter case and how accents are encoded."""
    folder, slash, name = path.rpartition("/")
    return folder + slash + (name.lower() if name.isascii() else normalize("NFC", name.lower()))


def caption_from_file(data: bytes, options: SourceConfig, key: str) -> str | None:
    """Return the caption in a caption file, or None if it holds none. Raises SampleRejected.

    Each line of a text file is a caption; a JSON file holds it under ``caption_column``.
    """
    if len(data) > MAX_CAPTION_BYTES:
        raise SampleRejected("caption file too large", cause=f"more than {MAX_CAPTION_BYTES} bytes")
    text = _decode(data, options)
    if not options.has_json_captions:
        return _choose(re.split(r"\r\n|\r|\n", text), options, key, joint=" ")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SampleRejected("bad json in caption file", cause=str(error)) from error
    column = options.caption_column or "caption"
    return caption_from_value(lookup(value, column) if isinstance(value, dict) else None, options, key)


def caption_from_value(value: object, options: SourceConfig, key: str) -> str | None:
    """Return the caption in a value of a column: text, or a list of texts. None if there is none.

    Raises SampleRejected if the text cannot be stored.
    """
    return _choose(_texts(value, options), options, key, joint=", ")


def lookup(row: Mapping[str, Any], name: str) -> Any:  # noqa: ANN401 - any value of a table
    """Return the value of a column, or of a field of a struct by its dotted name; None if there is none.

    Structs may also be JSON text. A field of a list of structs is a list.
    """
    if name in row:
        return row[name]
    for dot in reversed([match.start() for match in re.finditer(r"\.", name)]):
        if name[:dot] in row:
            return _field(row[name[:dot]], name[dot + 1 :])
    return None


def _field(value: object, name: str) -> object:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    if isinstance(value, Mapping):
        return lookup(value, name)
    return [_field(item, name) for item in value] if isinstance(value, list) else None


def _texts(value: object, options: SourceConfig) -> Iterator[str]:
    """Yield the texts in a value. Lists may also be text, as in CSV files."""
    if isinstance(value, bytes):
        value = _decode(value, options)
    if isinstance(value, str) and _LIST_OF_STRINGS.fullmatch(value.strip()):
        value = _parse_list(value.strip())
    if isinstance(value, list):
        for item in value:
            yield from _texts(item, options)
    elif isinstance(value, str | int | float) and not isinstance(value, bool) and value == value:  # not NaN
        yield str(value)


def _parse_list(text: str) -> object:
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError):
            continue
    return text


def _decode(data: bytes, options: SourceConfig) -> str:
    try:
        return decode_text(data, options.fallback_encoding)
    except TextError as error:
        raise SampleRejected(NOT_TEXT, cause=str(error)) from error


def _choose(texts: Iterable[str], options: SourceConfig, key: str, joint: str) -> str | None:
    captions = [text.strip() for text in texts if text.strip()]
    if not captions:
        return None
    if options.caption_choice == "join":
        caption = joint.join(captions)
    elif options.caption_choice == "random":
        digest = hashlib.sha256(f"caption of {key}".encode()).digest()
        caption = captions[int.from_bytes(digest[:8], "big") % len(captions)]
    else:
        caption = captions[0]
    if "\0" in caption:
        raise SampleRejected(HAS_NUL, cause="perhaps UTF-16 without a byte order mark")
    try:
        return decode_escaped(caption, None)
    except TextError as error:
        raise SampleRejected(NOT_TEXT, cause=str(error)) from error
