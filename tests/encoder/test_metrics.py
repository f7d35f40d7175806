"""CLIP similarity of images and prompts."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from e4t_errors import ConfigError
from encoder.metrics import ClipScorer, cosine_similarity

CLIP = Path(__file__).parents[2] / "models" / "base" / "clip"


def test_an_image_is_most_similar_to_itself(pixels: Tensor) -> None:
    features = ClipScorer(str(CLIP)).image_features(pixels)
    torch.testing.assert_close(cosine_similarity(features, features), torch.ones(2))
    assert cosine_similarity(features[:1], features[1:]) < 0.999


def test_a_prompt_is_more_similar_to_the_image_that_it_describes() -> None:
    scorer = ClipScorer(str(CLIP))
    navy, lime = torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 64)
    navy[:], lime[:] = color("#1f2f5c"), color("#b5dc4f")
    text = scorer.text_features(["a portrait of a person on a navy background"])
    assert cosine_similarity(scorer.image_features(navy), text) > cosine_similarity(scorer.image_features(lime), text)


def color(code: str) -> Tensor:
    values = [int(code[index : index + 2], 16) / 127.5 - 1 for index in (1, 3, 5)]
    return torch.tensor(values).view(3, 1, 1)


def test_a_folder_without_a_clip_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be loaded"):
        ClipScorer(str(tmp_path))
