"""Files that say something about pictures by their names: CelebA's lists, FFHQ's JSON, any CSV.

They are held in memory while the source is listed: an identity takes about 150 bytes a picture, attributes about 0.1 kB
a picture and 0.1 kB more for each text or large number (CelebA's 40 attributes: 1.5 kB).
"""

import csv
import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from data_prep.errors import DataError
from data_prep.records import Scalar
from data_prep.sources.columns import parse_scalar, scalars
from data_prep.sources.filesystem import open_parent

Columns = dict[str, Scalar]


def load_identities(url: str) -> dict[str, str]:
    """Identities by picture, from lines ``picture identity``. Raises DataError if they cannot be read."""
    identities = dict[str, str]()
    with _open_text("identities", url) as lines:
        for number, line in enumerate(lines, 1):
            fields = line.rsplit(maxsplit=1)
            if len(fields) == 1:
                raise DataError(f"identities {url}, line {number}: {line.strip()!r} is no line `picture identity`")
            if fields:
                identities[fields[0].strip()] = sys.intern(fields[1])
    return identities


def load_attributes(url: str) -> dict[str, Columns]:
    """Columns by picture, from .json (FFHQ), .csv or .tsv (the first column is the name) or CelebA's text lists.

    Raises DataError if they cannot be read.
    """
    with _open_text("attributes", url) as lines:
        if url.endswith(".json"):
            return dict(_parse_ffhq_json(lines, url))
        if url.endswith((".csv", ".tsv")):
            return dict(_parse_csv(lines, url))
        return dict(_parse_celeba(lines, url))


def _parse_celeba(lines: TextIO, url: str) -> Iterator[tuple[str, Columns]]:
    """A line with the count, one with the names of the columns, then a line a picture, parted by any blanks."""
    if not lines.readline().strip().isdigit():
        raise DataError(
            f"attributes {url} begins with no count, as CelebA's lists do; give one of these, .csv or .json"
        )
    header = [sys.intern(name) for name in lines.readline().split()]
    for number, line in enumerate(lines, 3):
        name, *values = line.split() or [""]
        # The list of boxes names the first column too, that of attributes does not.
        names = header[len(header) - len(values) :] if len(header) - len(values) in (0, 1) else []
        if name and not names:
            raise DataError(f"attributes {url}, line {number}: {len(values)} values for {len(header)} columns")
        if name:
            yield name, {key: parse_scalar(value) for key, value in zip(names, values, strict=True)}


def _parse_csv(lines: TextIO, url: str) -> Iterator[tuple[str, Columns]]:
    rows = csv.DictReader(lines, delimiter="\t" if url.endswith(".tsv") else ",")
    first, *rest = rows.fieldnames or [""]
    for row in rows:
        yield row[first] or "", {name: parse_scalar(row[name]) for name in rest}


def _parse_ffhq_json(lines: TextIO, url: str) -> Iterator[tuple[str, Columns]]:
    """FFHQ: by number, each with the picture's path under ``image`` and who made it under ``metadata``."""
    # Landmarks are most of FFHQ's 267 MB: drop lists while parsing, before they add up to gigabytes.
    data = json.load(lines, object_hook=_without_lists)
    if not isinstance(data, dict):
        raise DataError(f"attributes {url} is no JSON object by picture")
    for name, row in data.items():
        if isinstance(row, dict):
            image, metadata = (row[part] if isinstance(row.get(part), dict) else {} for part in ("image", "metadata"))
            # The name alone: the path begins with a folder that may or may not be part of the source.
            yield str(image.get("file_path", name)).rpartition("/")[2], scalars(row | metadata)


def _without_lists(data: dict[str, Any]) -> dict[str, Any]:
    return {
        sys.intern(name): sys.intern(value) if isinstance(value, str) else value
        for name, value in data.items()
        if not isinstance(value, list)
    }


@contextmanager
def _open_text(setting: str, url: str) -> Iterator[TextIO]:
    """The file as text; says in one line what is wrong with it."""
    tree, name = open_parent(url)
    try:
        with tree.open(name) as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as lines:
            yield lines
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{setting} {url} cannot be read ({reason}); check data.source_options.{setting}") from error
