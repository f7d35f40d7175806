import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from encoder.backbone.backbone import Backbone
from encoder.model.features import EncodedImages, encode_images
from pipelines.pretraining.feature_cache import to_encoded_images

E4T = Callable[..., tuple[int, str, str]]


def test_what_is_kept_is_what_was_encoded_to_rounding(backbone: Backbone, pixels: Tensor) -> None:
    fresh = encode_images(backbone, pixels)
    kept = to_encoded_images(
        {name: tensor.bfloat16() for name, tensor in fresh.to_tensors().items()}, torch.device("cpu")
    )
    assert isinstance(kept, EncodedImages)
    for again, first in (
        (kept.posterior.mean, fresh.posterior.mean),
        (kept.posterior.std, fresh.posterior.std),
        (kept.class_tokens, fresh.class_tokens),
    ):
        assert torch.allclose(again, first, rtol=0.02, atol=0.01)


def test_another_weight_is_another_fingerprint(backbone: Backbone) -> None:
    before = backbone.part_digest("vae"), backbone.part_digest("clip")
    next(backbone.vae.parameters()).data[0] += 1e-3
    assert backbone.part_digest("vae") != before[0]
    assert backbone.part_digest("clip") == before[1]


@pytest.mark.slow
@pytest.mark.distributed
def test_training_on_the_cache_gives_the_losses_of_training_on_pictures(e4t: E4T, recipe: Path, tmp_path: Path) -> None:
    assert e4t("cache", "--recipe", recipe, "--nproc", "2")[0] == 0
    losses = []
    for name, cached in (("pictures", "false"), ("features", "true")):
        chosen = ("--name", name, "--pretrain.use_feature_cache", cached)
        code, _, err = e4t("pretrain", "--recipe", recipe, "--nproc", "2", *chosen)
        assert code == 0, err
        lines = (tmp_path / "runs" / name / "metrics.jsonl").read_text().splitlines()
        losses.append([line["loss"] for line in map(json.loads, lines) if "images_per_second" in line])
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
