"""Cached features equal fresh ones, and training on them gives the same losses."""

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


def test_cached_features_equal_fresh_ones_up_to_rounding(backbone: Backbone, pixels: Tensor) -> None:
    fresh = encode_images(backbone, pixels)
    cached = to_encoded_images(
        {name: tensor.bfloat16() for name, tensor in fresh.to_tensors().items()}, torch.device("cpu")
    )
    assert isinstance(cached, EncodedImages)
    for restored, original in (
        (cached.posterior.mean, fresh.posterior.mean),
        (cached.posterior.std, fresh.posterior.std),
        (cached.class_tokens, fresh.class_tokens),
    ):
        assert torch.allclose(restored, original, rtol=0.02, atol=0.01)


def test_the_digest_of_a_part_depends_on_its_own_weights_only(backbone: Backbone) -> None:
    before = backbone.part_digest("vae"), backbone.part_digest("image_encoder")
    next(backbone.vae.parameters()).data[0] += 1e-3
    assert backbone.part_digest("vae") != before[0]
    assert backbone.part_digest("image_encoder") == before[1]


@pytest.mark.long
@pytest.mark.distributed
def test_training_on_cached_features_gives_the_same_losses_as_training_on_images(
    e4t: E4T, recipe: Path, tmp_path: Path
) -> None:
    assert e4t("cache", "--recipe", recipe, "--nproc", "2")[0] == 0
    losses = []
    for name, use_cache in (("images", "false"), ("features", "true")):
        options = ("--name", name, "--pretrain.use_feature_cache", use_cache, "--pretrain.max_steps", "3")
        code, _, err = e4t("pretrain", "--recipe", recipe, *options)
        assert code == 0, err
        lines = (tmp_path / "runs" / name / "metrics.jsonl").read_text().splitlines()
        losses.append([line["loss"] for line in map(json.loads, lines) if "images_per_second" in line])
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
