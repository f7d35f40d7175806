"""The recognizer of drawn people: its training identities, its file format, and its recall."""

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from data_prep.config import SplitFractions
from data_prep.prepare.splits import split_of
from data_prep.synthetic.faces import FacesConfig, generate_faces
from e4t_errors import ConfigError
from encoder.metrics import ImageFeatureExtractor
from pipelines.tiny_base.config import BaseConfig, TimeBudget
from pipelines.tiny_base.dataset import CaptionedImages, load_split
from pipelines.tiny_base.recognizer import held_out_identities, recall, train_recognizer
from tests.bases import SHIPPED


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> BaseConfig:
    folder = tmp_path_factory.mktemp("people")
    faces, others = str(folder / "faces"), str(folder / "others")
    generate_faces(FacesConfig(output=faces, num_identities=12, images_per_identity=1, seed=0))
    generate_faces(FacesConfig(output=others, num_identities=12, images_per_identity=2, seed=1))
    budget = TimeBudget(minutes=0.05, batch_size=4, learning_rate=1e-3)
    return BaseConfig(image_dir=faces, recognizer_faces=others, output=str(folder / "base"), recognizer=budget)


def test_it_is_trained_on_held_out_training_identities(config: BaseConfig) -> None:
    names = set(held_out_identities(config).identities)
    assert names
    assert all(split_of(name, SplitFractions()) == "train" for name in names)
    assert not names & {folder.name for folder in Path(config.image_dir).iterdir()}


def test_the_identities_of_the_base_are_refused(config: BaseConfig) -> None:
    same = BaseConfig(image_dir=config.image_dir, recognizer_faces=config.image_dir)
    with pytest.raises(ConfigError, match="e4t demo faces --seed"):
        held_out_identities(same)


def test_the_trained_network_loads_as_a_feature_extractor(config: BaseConfig, pixels: Tensor) -> None:
    Path(config.output).mkdir()
    train_recognizer(config, Accelerator(cpu=True))
    assert ImageFeatureExtractor(f"{config.output}/recogniser").image_features(pixels).shape == (2, 192)


class FirstPixelFeatures:
    """The features of an image are the color of its first pixel."""

    def image_features(self, pixels: Tensor) -> Tensor:
        return torch.nn.functional.normalize(pixels[:, :, 0, 0], dim=1)


def test_recall_is_how_often_the_nearest_person_is_the_same() -> None:
    red, green, blue = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    pixels = torch.tensor([red, red, green, green, blue, red], dtype=torch.uint8).view(6, 3, 1, 1)
    people = CaptionedImages(pixels, [["a person"]] * 6, ["anna", "anna", "ben", "ben", "carl", "carl"])
    assert recall(FirstPixelFeatures(), people) == {"num_identities": 3.0, "top1": pytest.approx(2 / 3), "top5": 1.0}


def test_the_shipped_recognizer_finds_unseen_people(tmp_path: Path) -> None:
    generate_faces(FacesConfig(output=str(tmp_path / "faces"), num_identities=800, images_per_identity=2, seed=5))
    people = load_split(tmp_path / "faces", "test")
    scores = recall(ImageFeatureExtractor(str(SHIPPED / "recogniser")), people)
    assert scores["num_identities"] > 30
    assert scores["top1"] > 0.8
