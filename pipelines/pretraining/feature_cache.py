"""``e4t cache``: encode every image once with the VAE and CLIP, instead of once per epoch."""

import os
from collections.abc import Callable

import torch
from torch import Tensor

from data_prep.shards.features import FeatureReader, write_features
from data_prep.shards.manifest import Manifest
from encoder.backbone.backbone import Backbone
from encoder.model.features import EncodedImages, encode_images
from pipelines.config.recipe import Recipe
from pipelines.tracking.stage_runs import stage_run


def cache(recipe: Recipe, rank: int, world_size: int, on_progress: Callable[[int, int], None] | None = None) -> None:
    """Encode every ``world_size``-th shard from ``rank`` on that is not cached yet. Rank 0 logs the stage to MLflow.

    ``on_progress`` is called with the number of finished and of all shards of this rank.
    """
    if rank:
        _cache_features(recipe, rank, world_size, on_progress)
        return
    manifest = Manifest.load(recipe.data.output)
    with stage_run(recipe, "cache") as tracker:
        tracker.log_dataset(manifest.domain, manifest.digest, recipe.data.output, "encoding")
        _cache_features(recipe, rank, world_size, on_progress)


def _cache_features(recipe: Recipe, rank: int, world_size: int, on_progress: Callable[[int, int], None] | None) -> None:
    backbone = Backbone.load(recipe.base, _device())
    dtype = getattr(torch, recipe.cache.dtype)

    def compute(pixels: Tensor) -> dict[str, Tensor]:
        return {name: tensor.to(dtype) for name, tensor in encode_images(backbone, pixels).to_tensors().items()}

    for root in (recipe.data.output, *recipe.stream.mixture):
        write_features(
            root,
            recipe.cache.folder,
            feature_fingerprint(recipe, backbone),
            compute,
            rank=rank,
            world_size=world_size,
            batch_size=recipe.cache.batch_size,
            on_progress=on_progress,
        )


def open_feature_cache(recipe: Recipe, backbone: Backbone, split: str) -> FeatureReader:
    """Open the cached features of the dataset.

    Raises ConfigError if they were computed with another base model or dtype, DataError if some are missing.
    """
    return FeatureReader(
        recipe.data.output, recipe.cache.folder, split, feature_fingerprint(recipe, backbone), recipe.stream
    )


def feature_fingerprint(recipe: Recipe, backbone: Backbone) -> dict[str, str]:
    """Return what cached features depend on: digests of the weights that compute them, and their dtype."""
    return {
        "vae": backbone.part_digest("vae"),
        "image_encoder": backbone.part_digest("image_encoder"),
        "dtype": recipe.cache.dtype,
    }


def to_encoded_images(features: dict[str, Tensor], device: torch.device) -> EncodedImages:
    """Convert cached tensors to the float32 inputs of the model on ``device``."""
    return EncodedImages.from_tensors({name: tensor.to(device).float() for name, tensor in features.items()})


def _device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
