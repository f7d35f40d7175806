"""Configurations and metadata as plain nested dictionaries: parse, flatten, compare and hash them."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

SHA256_PATTERN = "[0-9a-f]{64}"
"""Regular expression of a SHA-256 in hexadecimal digits, such as ``sha256_json`` returns."""


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as one dictionary with dotted keys, each after ``prefix``."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return key, old and new value of every setting that differs, sorted by key; a missing one counts as None."""
    names = sorted(old.keys() | new.keys())
    return [(name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)]


def parse_json(text: bytes | str) -> Any:  # noqa: ANN401 - any plain data
    """Parse JSON. Raises ValueError if it is malformed or an object has the same key twice."""
    return json.loads(text, object_pairs_hook=_unique_keys)


def sha256_json(data: Any) -> str:  # noqa: ANN401 - any plain data
    """Return the SHA-256 (hexadecimal) of JSON-serializable data in canonical form: sorted keys, no whitespace."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        raise ValueError(f"a key occurs twice: {', '.join(key for key, _ in pairs[:8])}, ...")
    return data
