import random
from pathlib import Path

import pytest
import torch

from data_prep.config import SplitFractions
from data_prep.prepare.splits import split_of
from data_prep.synthetic.faces import Identity, Scene, render
from encoder.errors import ModelError
from pipelines.tiny_base.attribute_classifier import (
    IDENTITY_ATTRIBUTES,
    SCENE_ATTRIBUTES,
    AttributeClassifier,
    expected_attributes,
    matching_fraction,
)

BASE = Path(__file__).parents[3] / "models" / "base"


def test_the_classifier_generalizes_to_unseen_people() -> None:
    rng = random.Random(7)
    drawn = [(Identity.random(rng), Scene.random(rng)) for _ in range(400)]
    unseen = [(who, scene) for who, scene in drawn if split_of(who.name, SplitFractions()) == "test"]
    pixels = torch.stack([torch.frombuffer(bytearray(render(*pair).tobytes()), dtype=torch.uint8) for pair in unseen])
    predicted = AttributeClassifier.load(BASE).predict(
        pixels.view(-1, 64, 64, 3).permute(0, 3, 1, 2).float() / 127.5 - 1
    )
    fractions = [
        matching_fraction(r, expected_attributes(*pair), [*IDENTITY_ATTRIBUTES, *SCENE_ATTRIBUTES])
        for r, pair in zip(predicted, unseen, strict=True)
    ]
    assert len(unseen) > 10
    assert sum(fractions) / len(fractions) > 0.9


def test_the_matching_fraction_counts_only_the_named_attributes() -> None:
    predicted = expected_attributes(
        Identity(head="afro", hair="blue", skin="tan", beard="none", accessory="none"), SCENE_A
    )
    expected = expected_attributes(
        Identity(head="afro", hair="gray", skin="tan", beard="none", accessory="none"), SCENE_A
    )
    assert matching_fraction(predicted, expected, ["head", "hair"]) == 0.5


SCENE_A = Scene(expression="smiling", clothes="red", background="navy")


def test_a_base_without_a_classifier_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="drawn faces"):
        AttributeClassifier.load(tmp_path)
