"""A dataset with four images of each person, and systems that finish within seconds."""

from pathlib import Path

import pytest

from data_prep.config import PrepareConfig
from data_prep.prepare.executors import LocalExecutor
from data_prep.prepare.pipeline import prepare
from data_prep.synthetic.faces import FacesConfig, generate_faces
from encoder.config import BackboneConfig, ConditioningConfig, SampleConfig, TuneConfig
from pipelines.config.evaluation import RELEASE, CompareConfig, EvaluateConfig, System
from pipelines.config.pretraining import PretrainConfig
from pipelines.config.recipe import Recipe
from tests.shared import build_once, copy_mlflow_database

ROOT = Path(__file__).parents[3]
SYSTEMS = (
    System(name="Stable Diffusion", method="none"),
    System(
        name="Textual Inversion", method="textual-inversion", num_images=2, steps=(1, 2), settings={"batch_size": 2}
    ),
    System(
        name="Textual Inversion + DreamBooth", method="pivotal", num_images=2, steps=(1,),
        init_from="Textual Inversion", settings={"batch_size": 2},
    ),
    System(name="DreamBooth", method="dreambooth", steps=(1,), settings={"batch_size": 2, "num_class_images": 2}),
    System(name="E4T", method="e4t", init=RELEASE, steps=(0, 2)),
)  # fmt: skip


@pytest.fixture(scope="session")
def album(_shared_folder: None) -> PrepareConfig:
    """Configuration of a prepared dataset of 60 people with four images each; shared by all workers."""

    def build(folder: Path) -> None:
        faces = FacesConfig(output=str(folder / "faces"), num_identities=60, images_per_identity=4)
        generate_faces(faces, workers=1)
        prepare(_album_config(folder), LocalExecutor(workers=1))

    return _album_config(build_once("album", build))


def _album_config(folder: Path) -> PrepareConfig:
    return PrepareConfig(
        source=str(folder / "faces"), output=str(folder / "shards"), domain="person",
        resolution=64, format="png", shard_samples=20,
    )  # fmt: skip


@pytest.fixture
def recipe(album: PrepareConfig, tmp_path: Path) -> Recipe:
    copy_mlflow_database(tmp_path / "runs")
    return Recipe(
        name="album",
        runs=str(tmp_path / "runs"),
        base=BackboneConfig(model=str(ROOT / "models" / "base")),
        data=album,
        conditioning=ConditioningConfig(domain_word="person", templates=("a portrait of a *s",)),
        pretrain=PretrainConfig(hidden_width=512),
        tune=TuneConfig(batch_size=2),
        sample=SampleConfig(num_inference_steps=2),
        evaluate=EvaluateConfig(num_concepts=2, num_grid_concepts=2, num_prompts=2, steps=(0, 1)),
        compare=CompareConfig(systems=SYSTEMS),
    )


@pytest.fixture
def release() -> Path:
    """Return the shipped release, which has the same base model."""
    return ROOT / "models" / "faces"
