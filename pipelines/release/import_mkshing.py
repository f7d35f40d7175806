"""``e4t import mkshing``: convert a pre-trained checkpoint of mkshing/e4t-diffusion to a release folder."""

import json
import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from data_prep.storage.atomic import atomic_dir, sha256_file
from e4t_errors import ConfigError
from encoder.backbone.shapes import build_meta_backbone
from encoder.config import BackboneConfig, ConditioningConfig, SampleConfig, TuneConfig
from encoder.errors import ModelError
from encoder.model.registry import PATCHES
from encoder.model.weight_offsets import save_offsets
from encoder.placeholder import PLACEHOLDER
from encoder.releases.mkshing import read_encoder, read_offsets
from encoder.releases.release import ENCODER, OFFSETS, WEIGHTS, Release
from pipelines.release.index import build_index, check_output_is_new, check_version, write_index
from pipelines.release.model_card import render_imported_card
from pipelines.release.provenance import CARD_FILE, write_provenance
from pipelines.tracking.environment import environment

PROJECT = "mkshing/e4t-diffusion"
CONFIG_FILE, OFFSETS_FILE, ENCODER_FILE = "config.json", "weight_offsets.pt", "encoder.pt"
MAX_CONFIG_BYTES = 2**16
PLACEHOLDER_TEMPLATE = "{placeholder_token}"
"""Placeholder of the concept in that project's prompt templates."""
CLIP_HUB_IDS = {"ViT-H-14::laion2b_s32b_b79k": "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"}
"""Hub ids of image encoders in transformers' format, by that project's names for open_clip models."""
IMAGE_ENCODER_DIR = "clip"
"""Subfolder of the release for an image encoder that was trained as well."""


@dataclass(frozen=True, kw_only=True)
class MkshingConfig:
    """Settings in config.json; missing ones have that project's defaults."""

    domain_class_token: str
    pretrained_model_name_or_path: str = "runwayml/stable-diffusion-v1-5"
    clip_model_name_or_path: str = "ViT-H-14::laion2b_s32b_b79k"
    domain_embed_scale: float = 0.1
    prompt_template: str = f"a photo of {PLACEHOLDER_TEMPLATE}"
    """A template, or the name of one of that project's lists: ``normal``, ``face``, ``art``."""
    resolution: int = 512
    unfreeze_clip_vision: bool | None = None
    """Whether the image encoder was trained as well; None if the file does not say."""

    def __post_init__(self) -> None:
        """Raise ValueError for values of a wrong type or out of range."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is str and not (isinstance(value, str) and value):
                raise ValueError(f"{field.name} is {value!r}, not a string")
        if not isinstance(self.domain_embed_scale, int | float) or not 0 < self.domain_embed_scale < math.inf:
            raise ValueError(f"domain_embed_scale is {self.domain_embed_scale!r}")
        if not isinstance(self.resolution, int) or not 8 <= self.resolution <= 4096:
            raise ValueError(f"resolution is {self.resolution!r}")
        if not isinstance(self.unfreeze_clip_vision, bool | None):
            raise ValueError(f"unfreeze_clip_vision is {self.unfreeze_clip_vision!r}")

    @classmethod
    def read(cls, path: Path) -> tuple["MkshingConfig", dict[str, Any]]:
        """Read config.json; return the checked settings and the raw dictionary.

        Raises ModelError if it does not belong to a pre-trained checkpoint.
        """
        try:
            if path.stat().st_size > MAX_CONFIG_BYTES:
                raise ValueError(f"it has more than {MAX_CONFIG_BYTES:,} bytes")
            raw = json.loads(path.read_text())
            if "pretrained_args" in raw:
                raise ValueError("it belongs to one tuned concept; a release needs a pre-trained checkpoint")
            if "domain_class_token" not in raw:
                raise ValueError("it lacks domain_class_token")
            known = {field.name for field in fields(cls)}
            return cls(**{name: value for name, value in raw.items() if name in known}), raw
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ModelError(
                f"{path} is not a configuration of {PROJECT} ({error}); give the folder of a checkpoint"
            ) from error

    @property
    def conditioning(self) -> ConditioningConfig:
        """Conditioning with the checkpoint's template; a named list becomes the default template of that project."""
        template = self.prompt_template if PLACEHOLDER_TEMPLATE in self.prompt_template else type(self).prompt_template
        return ConditioningConfig(
            domain_word=self.domain_class_token,
            embedding_scale=self.domain_embed_scale,
            templates=(template.replace(PLACEHOLDER_TEMPLATE, PLACEHOLDER),),
        )

    @property
    def tune_config(self) -> TuneConfig:
        """Tuning as in that project's README: 30 steps of 16 copies, learning rate 1e-6 per copy, lambda 0.1.

        That project regularizes ||emb(w) + s v||^2, summed over the copies; e4t regularizes the mean of ||v||^2. The
        weight with the same effect on ||v||^2 is lambda * copies * s^2; the cross term of v and emb(w) is left out.
        """
        copies = 16
        weight = 0.1 * copies * self.domain_embed_scale**2
        return TuneConfig(steps=30, batch_size=copies, learning_rate=1e-6 * copies, regularization_weight=weight)


def import_release(
    path: Path, output: Path, name: str, version: str, *, base: str | None = None, image_encoder: str | None = None
) -> Release:
    """Write the release folder of the checkpoint in ``path`` atomically; return the opened release.

    ``base`` and ``image_encoder`` override the models that the checkpoint names. Raises ConfigError if ``version`` is
    not semantic, ``output`` exists, or the shapes of the base model or image encoder cannot be determined; ModelError
    if files are missing, damaged, not of such a checkpoint, or do not fit the base model.
    """
    check_version(version)
    check_output_is_new(output)
    config, raw_config = MkshingConfig.read(path / CONFIG_FILE)
    conditioning = config.conditioning
    image_encoder = image_encoder or CLIP_HUB_IDS.get(config.clip_model_name_or_path)
    if image_encoder is None:
        raise ConfigError(f"unknown image encoder {config.clip_model_name_or_path}; give --image-encoder")
    backbone_config = BackboneConfig(model=base or config.pretrained_model_name_or_path, image_encoder=image_encoder)
    meta_backbone = build_meta_backbone(backbone_config)
    offsets = read_offsets(path / OFFSETS_FILE, meta_backbone.unet)
    encoder, trained_image_encoder = read_encoder(path / ENCODER_FILE, meta_backbone)
    if trained_image_encoder is None and config.unfreeze_clip_vision:
        raise ModelError(
            f"{path / ENCODER_FILE} lacks the image encoder that was trained with it; get the complete checkpoint"
        )
    index = build_index(
        name,
        version,
        output,
        base=backbone_config,
        resolution=config.resolution,
        conditioning=conditioning,
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
            index = replace(index, base=index.base | {"image_encoder": f"./{IMAGE_ENCODER_DIR}"})
        encoder_config = {"kind": PATCHES, **asdict(encoder.config)}
        write_index(folder, index=index, encoder_config=encoder_config)
        card = render_imported_card(
            name,
            version,
            output,
            project=PROJECT,
            base=backbone_config.model,
            prompt=conditioning.templates[0],
            word=conditioning.domain_word,
        )
        (folder / CARD_FILE).write_text(card)
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
