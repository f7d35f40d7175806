"""SHA-256 digests of plain data."""

import hashlib
import json
from typing import Any


def sha256_json(data: Any) -> str:  # noqa: ANN401 - any plain data
    """Return the SHA-256 (hexadecimal) of JSON-serializable data in canonical form: sorted keys, no whitespace."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
