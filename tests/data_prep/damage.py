"""Damage the files of a prepared dataset."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def flip_bit(path: Path, byte: int, bit: int = 0) -> None:
    """Invert one bit of a file."""
    data = bytearray(path.read_bytes())
    data[byte] ^= 1 << bit
    path.write_bytes(data)


def edit_json(path: Path, change: Callable[[Any], object]) -> None:
    """Change the content of a JSON file."""
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def drop_checksums(root: Path) -> None:
    """Make the shard indexes what version 2 wrote, without checksums of the members."""

    def to_version_2(index: dict[str, Any]) -> None:
        index["version"] = 2
        index["members"] = {
            key: {extension: part[:2] for extension, part in parts.items()} for key, parts in index["members"].items()
        }

    for tar in root.rglob("*.tar"):
        edit_json(tar.with_suffix(".json"), to_version_2)
