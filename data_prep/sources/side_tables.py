"""Load identities and attributes of images from side tables: CelebA's lists, FFHQ's JSON or any CSV.

Tables are held in memory while the source is listed. An identity takes about 150 bytes per image; attributes take about
0.1 kB per image plus 0.1 kB for each string or large number (1.5 kB for CelebA's 40 attributes).
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
    """Load identities by image name from lines ``<image> <identity>``. Raises DataError if that fails."""
    identities = dict[str, str]()
    with _open_text("identities", url) as lines:
        for number, line in enumerate(lines, 1):
            fields = line.rsplit(maxsplit=1)
            if len(fields) == 1:
                raise DataError(f"identities {url}, line {number}: {line.strip()!r} is not a line `<image> <identity>`")
            if fields:
                identities[fields[0].strip()] = sys.intern(fields[1])
    return identities


def load_attributes(url: str) -> dict[str, Columns]:
    """Load columns by image name from .json (FFHQ), .csv or .tsv (names in the first column) or CelebA's text lists.

    Raises DataError if the file cannot be read.
    """
    with _open_text("attributes", url) as lines:
        if url.endswith(".json"):
            return dict(_parse_ffhq_json(lines, url))
        if url.endswith((".csv", ".tsv")):
            return dict(_parse_csv(lines, url))
        return dict(_parse_celeba(lines, url))


def _parse_celeba(lines: TextIO, url: str) -> Iterator[tuple[str, Columns]]:
    """Parse a CelebA list: a line with the count, a line with column names, then one line per image."""
    if not lines.readline().strip().isdigit():
        raise DataError(
            f"attributes {url} does not start with a count, as CelebA's lists do; give a CelebA list, .csv or .json"
        )
    header = [sys.intern(name) for name in lines.readline().split()]
    for number, line in enumerate(lines, 3):
        name, *values = line.split() or [""]
        # The list of boxes also names the first column, the list of attributes does not.
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
    """Parse FFHQ's JSON: objects by image number, with the path under ``image`` and the author under ``metadata``."""
    # Face landmarks are most of FFHQ's 267 MB: drop lists while parsing, or they take gigabytes of memory.
    data = json.load(lines, object_hook=_without_lists)
    if not isinstance(data, dict):
        raise DataError(f"attributes {url} is not a JSON object by image")
    for name, row in data.items():
        if isinstance(row, dict):
            image, metadata = (row[part] if isinstance(row.get(part), dict) else {} for part in ("image", "metadata"))
            # Only the file name: the path starts with a folder that may be outside the source.
            yield str(image.get("file_path", name)).rpartition("/")[2], scalars(row | metadata)


def _without_lists(data: dict[str, Any]) -> dict[str, Any]:
    return {
        sys.intern(name): sys.intern(value) if isinstance(value, str) else value
        for name, value in data.items()
        if not isinstance(value, list)
    }


@contextmanager
def _open_text(setting: str, url: str) -> Iterator[TextIO]:
    """Open a file as text. Raises DataError if it cannot be opened or parsed within the block."""
    tree, name = open_parent(url)
    try:
        with tree.open(name) as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as lines:
            yield lines
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{setting} {url} cannot be read ({reason}); check data.source_options.{setting}") from error
