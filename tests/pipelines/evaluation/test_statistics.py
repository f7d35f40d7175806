import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import ViTConfig, ViTImageProcessorPil, ViTModel

from e4t import ConfigError
from encoder.metrics import ImageFeatureExtractor
from pipelines.config.evaluation import System
from pipelines.evaluation.statistics import Estimate, Score, aggregate_scores, write_csv

SYSTEM = System(name="a", method="e4t", steps=(0, 5))


def score(steps: int, concept: str, value: float) -> Score:
    return Score(SYSTEM, steps, concept, {"concept": value}, seconds=float(steps), peak_gib=value)


def test_the_interval_covers_the_mean_of_other_samples_about_as_often_as_it_says() -> None:
    rng, inside = np.random.default_rng(1), 0
    for _ in range(300):
        estimate = Estimate.from_values(rng.normal(0.5, 0.1, 30).tolist())
        inside += estimate.low <= 0.5 <= estimate.high
    assert 0.88 <= inside / 300 <= 0.99


def test_equal_values_give_equal_intervals() -> None:
    assert Estimate.from_values([0.1, 0.7, 0.4]) == Estimate.from_values([0.1, 0.7, 0.4])


def test_a_row_is_a_system_after_a_number_of_steps() -> None:
    made = aggregate_scores([score(0, "x", 0.2), score(5, "x", 0.4), score(0, "y", 0.4), score(5, "y", 0.8)])
    assert [(row.system, row.steps, row.scores["concept"].mean) for row in made] == [
        ("a", 0, pytest.approx(0.3)),
        ("a", 5, pytest.approx(0.6)),
    ]
    assert made[1].peak_gib == 0.8


def test_every_score_is_a_line_of_the_csv(tmp_path: Path) -> None:
    write_csv(tmp_path / "scores.csv", [score(0, "x", 0.25), score(5, "x", 0.5)])
    with (tmp_path / "scores.csv").open() as file:
        lines = list(csv.DictReader(file))
    told = [(line["steps"], line["subject"], float(line["concept"])) for line in lines]
    assert told == [("0", "x", 0.25), ("5", "x", 0.5)]


@pytest.fixture
def recogniser(tmp_path: Path) -> Path:
    """A picture model as DINO is stored, small and with random weights."""
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    ViTModel(config).save_pretrained(tmp_path)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    return tmp_path


def test_a_recogniser_is_any_picture_model_of_transformers(recogniser: Path, pixels: Tensor) -> None:
    features = ImageFeatureExtractor(str(recogniser)).image_features(pixels)
    assert features.shape == (2, 16)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(2))


def test_a_recogniser_that_is_none_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="recogniser .* cannot be loaded"):
        ImageFeatureExtractor(str(tmp_path))
