import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import ViTConfig, ViTImageProcessorPil, ViTModel

from e4t_errors import ConfigError
from encoder.metrics import ImageFeatureExtractor
from pipelines.config.evaluation import System
from pipelines.evaluation.statistics import Score, aggregate_scores, bootstrap, write_csv

SYSTEM = System(name="a", method="e4t", steps=(0, 5))


def score(steps: int, concept: str, value: float) -> Score:
    return Score(SYSTEM, steps, concept, {"rmse": value}, seconds=float(steps), peak_gib=value)


def test_the_interval_covers_the_true_mean_at_about_its_confidence_level() -> None:
    rng, num_covered = np.random.default_rng(1), 0
    for _ in range(300):
        estimate = bootstrap(rng.normal(0.5, 0.1, 30).tolist())
        num_covered += estimate.low <= 0.5 <= estimate.high
    assert 0.88 <= num_covered / 300 <= 0.99


def test_equal_values_give_equal_intervals() -> None:
    assert bootstrap([0.1, 0.7, 0.4]) == bootstrap([0.1, 0.7, 0.4])


def test_scores_are_aggregated_by_system_and_steps() -> None:
    rows = aggregate_scores([score(0, "x", 0.2), score(5, "x", 0.4), score(0, "y", 0.4), score(5, "y", 0.8)])
    assert [(row.system, row.steps, row.scores["rmse"].mean) for row in rows] == [
        ("a", 0, pytest.approx(0.3)),
        ("a", 5, pytest.approx(0.6)),
    ]
    assert rows[1].peak_gib == 0.8


def test_the_csv_has_one_line_per_score(tmp_path: Path) -> None:
    write_csv(tmp_path / "scores.csv", [score(0, "x", 0.25), score(5, "x", 0.5)])
    with (tmp_path / "scores.csv").open() as file:
        lines = list(csv.DictReader(file))
    values = [(line["steps"], line["concept"], float(line["rmse"])) for line in lines]
    assert values == [("0", "x", 0.25), ("5", "x", 0.5)]


@pytest.fixture
def recognizer(tmp_path: Path) -> Path:
    """Save a small image model with random weights in the format of DINO."""
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    ViTModel(config).save_pretrained(tmp_path)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    return tmp_path


def test_any_image_model_of_transformers_can_be_a_recognizer(recognizer: Path, pixels: Tensor) -> None:
    features = ImageFeatureExtractor(str(recognizer)).image_features(pixels)
    assert features.shape == (2, 16)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(2))


def test_a_recognizer_that_cannot_be_loaded_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="recognizer .* cannot be loaded"):
        ImageFeatureExtractor(str(tmp_path))
