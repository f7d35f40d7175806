"""Build and write the index of a release (index.json) and the configurations of its parts."""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from e4t import ConfigError
from encoder.config import BackboneConfig, ConditioningConfig, SampleConfig, TuneConfig
from encoder.releases.release import (
    CONFIG,
    ENCODER,
    FORMAT_VERSION,
    INDEX,
    KIND,
    OFFSETS,
    relative_to,
)

SEMANTIC_VERSION_PATTERN = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?")


def check_version(version: str) -> None:
    """Raise ConfigError if ``version`` is not a semantic version."""
    if not SEMANTIC_VERSION_PATTERN.fullmatch(version):
        raise ConfigError(f"version {version!r} is not a semantic version; give one like 1.0.0")


def check_output_is_new(output: Path) -> None:
    """Raise ConfigError if ``output`` exists."""
    if output.exists():
        raise ConfigError(f"{output} exists, and releases are never overwritten; give another --output")


def build_index(
    name: str,
    version: str,
    output: Path,
    *,
    base: BackboneConfig,
    resolution: int,
    conditioning: ConditioningConfig,
    tune: TuneConfig,
    sample: SampleConfig,
) -> dict[str, Any]:
    """Return the index of a release; paths of local base models are stored relative to ``output``."""
    return {
        "format_version": FORMAT_VERSION,
        "kind": KIND,
        "name": name,
        "version": version,
        "base": {
            "model": relative_to(base.model, output),
            "revision": base.revision,
            "image_encoder": base.image_encoder and relative_to(base.image_encoder, output),
            "dtype": base.dtype,
        },
        "resolution": resolution,
        "conditioning": asdict(conditioning),
        "tuning": asdict(tune),
        "sampling": asdict(sample),
    }


def write_index(folder: Path, *, index: dict[str, Any], encoder_config: dict[str, Any]) -> None:
    """Write the index and the configurations of the domain encoder and the weight offsets."""
    _write_json(folder / ENCODER / CONFIG, encoder_config)
    _write_json(folder / OFFSETS / CONFIG, {"form": "collapsed", "rank": 3, "applied_to": ["to_q", "to_k", "to_v"]})
    _write_json(folder / INDEX, index)


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=1) + "\n")
