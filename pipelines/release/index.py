"""Build the index of a new release, and write it with the configurations of the release's parts."""

import json
import re
from pathlib import Path
from typing import Any

from e4t_errors import ConfigError
from encoder.config import BackboneConfig, ConditioningConfig, SampleConfig, TuneConfig
from encoder.releases.index import ReleaseIndex, relative_to
from encoder.releases.release import CONFIG, ENCODER, OFFSETS

SEMANTIC_VERSION_PATTERN = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?")
OFFSETS_CONFIG = {"form": "collapsed", "rank": 3, "applied_to": ["to_q", "to_k", "to_v"]}


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
) -> ReleaseIndex:
    """Return the index of a release; paths of local base models are stored relative to ``output``."""
    base_model = {
        "model": relative_to(base.model, output),
        "revision": base.revision,
        "image_encoder": base.image_encoder and relative_to(base.image_encoder, output),
        "dtype": base.dtype,
    }
    return ReleaseIndex(
        name=name,
        version=version,
        base=base_model,
        conditioning=conditioning,
        tuning=tune,
        sampling=sample,
        resolution=resolution,
    )


def write_index(folder: Path, *, index: ReleaseIndex, encoder_config: dict[str, Any]) -> None:
    """Write the index and the configurations of the domain encoder and the weight offsets."""
    _write_json(folder / ENCODER / CONFIG, encoder_config)
    _write_json(folder / OFFSETS / CONFIG, OFFSETS_CONFIG)
    index.save(folder)


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=1) + "\n")
