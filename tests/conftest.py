"""The tiny base model that ships with the project: Stable Diffusion's own classes, small."""

import random
from pathlib import Path

import pytest
import torch
from torch import Tensor

from data_prep.faces import Identity, Scene, draw
from encoder.backbone import Backbone, BackboneConfig
from encoder.conditioning import Conditioning, ConditioningConfig
from encoder.domain_encoder import DomainEncoder, DomainEncoderConfig
from encoder.weight_offsets import OffsetPredictor

ROOT = Path(__file__).parent.parent
BASE = ROOT / "models" / "base"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def backbone() -> Backbone:
    return Backbone.load(BackboneConfig(model=str(BASE)))


@pytest.fixture
def conditioning(backbone: Backbone) -> Conditioning:
    return Conditioning.of(backbone, ConditioningConfig(domain_word="person", templates=("a portrait of a *s",)))


@pytest.fixture
def encoder(backbone: Backbone) -> DomainEncoder:
    """An encoder that says something: its last linear is not at zero."""
    encoder = DomainEncoder(DomainEncoderConfig.for_backbone(backbone, hidden_width=64))
    torch.nn.init.normal_(encoder.to_embedding.weight, std=0.2)
    return encoder


@pytest.fixture
def offsets(backbone: Backbone) -> OffsetPredictor:
    """Offsets that do something: their last linears are not at zero."""
    predictor = OffsetPredictor.for_unet(backbone.unet)
    for matrix in predictor.matrices:
        torch.nn.init.normal_(matrix.rows.weight, std=0.02)
        torch.nn.init.normal_(matrix.rows.bias, std=0.02)
    return predictor


@pytest.fixture
def pixels() -> Tensor:
    """Two drawn people, (2, 3, 64, 64) in [-1, 1]."""
    rng = random.Random(5)
    images = [draw(Identity.random(rng), Scene.random(rng)) for _ in range(2)]
    arrays = [torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(64, 64, 3) for image in images]
    return torch.stack(arrays).permute(0, 3, 1, 2).float() / 127.5 - 1
