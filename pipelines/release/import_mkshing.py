"""``e4t import mkshing``: a pre-trained checkpoint of mkshing/e4t-diffusion becomes a release folder."""

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save_file

from data_prep.storage.atomic import atomic_dir, sha256_file
from e4t import ConfigError
from encoder.backbone.shapes import build_meta_backbone
from encoder.config import PLACEHOLDER, BackboneConfig, ConditioningConfig, SampleConfig, TuneConfig
from encoder.errors import ModelError
from encoder.model.registry import PATCHES
from encoder.model.weight_offsets import save_offsets
from encoder.releases.mkshing import read_encoder, read_offsets
from encoder.releases.release import ENCODER, OFFSETS, PROVENANCE, WEIGHTS, Release
from pipelines.release.index import build_index, check_output_is_new, check_version, write_index
from pipelines.release.provenance import CARD_FILE, write_provenance
from pipelines.tracking.environment import environment

PROJECT = "mkshing/e4t-diffusion"
CONFIG_FILE, OFFSETS_FILE, ENCODER_FILE = "config.json", "weight_offsets.pt", "encoder.pt"
MAX_CONFIG_BYTES = 2**16
PLACEHOLDER_TEMPLATE = "{placeholder_token}"
"""Where that project's templates have the concept."""
CLIP_HUB_IDS = {"ViT-H-14::laion2b_s32b_b79k": "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"}
"""Hub ids in transformers' format, by what that project calls a tower in open_clip's."""
IMAGE_ENCODER_DIR = "clip"
"""Subfolder for a picture tower that was trained, too."""


@dataclass(frozen=True, kw_only=True)
class MkshingConfig:
    """What config.json says; where it is silent, that project's own defaults."""

    domain_class_token: str
    pretrained_model_name_or_path: str = "runwayml/stable-diffusion-v1-5"
    clip_model_name_or_path: str = "ViT-H-14::laion2b_s32b_b79k"
    domain_embed_scale: float = 0.1
    prompt_template: str = f"a photo of {PLACEHOLDER_TEMPLATE}"
    """Or ``normal``, ``face``, ``art``: lists of that project's."""
    resolution: int = 512
    unfreeze_clip_vision: bool | None = None
    """Whether the picture tower learned, too; if nothing is said, it may have."""

    def __post_init__(self) -> None:
        """Raises ValueError for values of another type, and for numbers that no training has."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is str and not (isinstance(value, str) and value):
                raise ValueError(f"{field.name} is {value!r}, no text")
        if not isinstance(self.domain_embed_scale, int | float) or not 0 < self.domain_embed_scale < math.inf:
            raise ValueError(f"domain_embed_scale is {self.domain_embed_scale!r}")
        if not isinstance(self.resolution, int) or not 8 <= self.resolution <= 4096:
            raise ValueError(f"resolution is {self.resolution!r}")
        if not isinstance(self.unfreeze_clip_vision, bool | None):
            raise ValueError(f"unfreeze_clip_vision is {self.unfreeze_clip_vision!r}")

    @classmethod
    def read(cls, path: Path) -> tuple["MkshingConfig", dict[str, Any]]:
        """As checked, and as it stands. Raises ModelError if it is of no pre-trained checkpoint."""
        try:
            if path.stat().st_size > MAX_CONFIG_BYTES:
                raise ValueError(f"it has more than {MAX_CONFIG_BYTES:,} bytes")
            raw = json.loads(path.read_text())
            if "pretrained_args" in raw:
                raise ValueError("it is of one tuned concept; a release is made of what was pre-trained")
            if "domain_class_token" not in raw:
                raise ValueError("it lacks domain_class_token")
            known = {field.name for field in fields(cls)}
            return cls(**{name: value for name, value in raw.items() if name in known}), raw
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ModelError(
                f"{path} is no configuration of {PROJECT} ({error}); give a checkpoint's folder"
            ) from error

    @property
    def conditioning(self) -> ConditioningConfig:
        """With the one template of that project's tuning command in place of a list of its own."""
        template = self.prompt_template if PLACEHOLDER_TEMPLATE in self.prompt_template else type(self).prompt_template
        return ConditioningConfig(
            domain_word=self.domain_class_token,
            embedding_scale=self.domain_embed_scale,
            templates=(template.replace(PLACEHOLDER_TEMPLATE, PLACEHOLDER),),
        )

    @property
    def tune_config(self) -> TuneConfig:
        """As that project's README tunes: 30 steps of 16 copies, 1e-6 a copy, lambda 0.1.

        Its lambda stands on ||emb(w) + s v||^2, summed over the copies; ours on the mean of ||v||^2. What weighs v as
        much is lambda times copies times s^2; the pull of v against emb(w), which it has beside, is left out.
        """
        copies = 16
        weight = 0.1 * copies * self.domain_embed_scale**2
        return TuneConfig(steps=30, batch_size=copies, learning_rate=1e-6 * copies, regularization_weight=weight)


def import_release(
    path: Path, output: Path, name: str, version: str, *, base: str | None = None, image_encoder: str | None = None
) -> Release:
    """Write the release folder of a checkpoint; it appears by rename, when whole.

    Raises ConfigError for a bad version, an output that exists, or a base or tower whose shapes are not to be had;
    ModelError with one line for files that are not such a checkpoint's, damaged, or do not fit the base.
    """
    check_version(version)
    check_output_is_new(output)
    config, raw_config = MkshingConfig.read(path / CONFIG_FILE)
    image_encoder = image_encoder or CLIP_HUB_IDS.get(config.clip_model_name_or_path)
    if image_encoder is None:
        raise ConfigError(f"picture tower {config.clip_model_name_or_path} is not known here; give --clip")
    backbone_config = BackboneConfig(model=base or config.pretrained_model_name_or_path, image_encoder=image_encoder)
    meta_backbone = build_meta_backbone(backbone_config)
    offsets = read_offsets(path / OFFSETS_FILE, meta_backbone.unet)
    encoder, trained_image_encoder = read_encoder(path / ENCODER_FILE, meta_backbone)
    if trained_image_encoder is None and config.unfreeze_clip_vision:
        raise ModelError(f"{path / ENCODER_FILE} lacks the picture tower that was trained with it; get a whole one")
    index = build_index(
        name,
        version,
        output,
        base=backbone_config,
        resolution=config.resolution,
        conditioning=config.conditioning,
        tune=config.tune_config,
        sample=SampleConfig(),
    )
    with atomic_dir(output) as folder:
        for part in (ENCODER, OFFSETS):
            (folder / part).mkdir()
        save_offsets(offsets, folder / OFFSETS / WEIGHTS)
        save_file({key: value.contiguous() for key, value in encoder.state_dict().items()}, folder / ENCODER / WEIGHTS)
        if trained_image_encoder is not None and config.unfreeze_clip_vision is not False:
            trained_image_encoder.save_pretrained(folder / IMAGE_ENCODER_DIR)
            index["base"]["clip"] = f"./{IMAGE_ENCODER_DIR}"
        encoder_config = {"kind": PATCHES, **asdict(encoder.config)}
        write_index(folder, index=index, encoder_config=encoder_config)
        (folder / CARD_FILE).write_text(_render_card(name, version, output, config, backbone_config.model))
        write_provenance(folder, _provenance(path, raw_config, backbone_config))
    return Release.open(output)


def _provenance(path: Path, raw_config: dict[str, Any], backbone_config: BackboneConfig) -> dict[str, Any]:
    files = {file: path / file for file in (CONFIG_FILE, OFFSETS_FILE, ENCODER_FILE)}
    return {
        "imported": {
            "from": PROJECT,
            "config": raw_config,
            "files": {
                name: {"bytes": file.stat().st_size, "sha256": sha256_file(file)} for name, file in files.items()
            },
        },
        "base": {"model": backbone_config.model, "revision": backbone_config.revision},
        "mlflow_run_id": None,
        "environment": environment(),
    }


def _render_card(name: str, version: str, output: Path, config: MkshingConfig, base: str) -> str:
    front_matter: dict[str, Any] = {
        "library_name": "e4t",
        "tags": ["text-to-image", "personalization", "e4t", "domain-encoder"],
    }
    if not Path(base).exists():  # the hub takes its own ids only
        front_matter["base_model"] = base
    return f"""---
{yaml.safe_dump(front_matter, sort_keys=False)}---

# {name} {version}: a domain encoder for "{config.domain_class_token}", of {PROJECT}

Trained by that project, not by e4t, and imported: the weight offsets collapsed, the encoder as it is. It looks at
patches of CLIP's last layer where the method (E4T, arXiv 2302.12228) has class tokens of every second layer.
The base model, `{base}`, is not inside. What differs, and what was not tested: docs/import.md of e4t.

    e4t tune --release {output} --image picture.png --output concept
    e4t generate --release {output} --concept concept --prompt "{config.conditioning.templates[0]}" --output pictures

## Limits

It knows its domain only; pictures of anything else give poor results.
Tune on pictures of people only with their consent.

## Licence

That under which its author gave these weights; the base model has one of its own.
Which files it was made of: `{PROVENANCE}`.
"""
