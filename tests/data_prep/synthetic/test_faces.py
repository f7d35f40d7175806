import json
import random
from collections.abc import Iterable
from pathlib import Path

import pytest

from data_prep.errors import DataError
from data_prep.synthetic.faces import (
    FacesConfig,
    Identity,
    Scene,
    extra_captions,
    generate_faces,
    render,
    sample_identities,
)
from e4t_errors import ConfigError

PERSON = Identity(head="afro", hair="ginger", skin="tan", beard="none", accessory="glasses5")
SCENE = Scene(expression="smiling", clothes="red", background="navy")


def files(folder: Path) -> dict[str, bytes]:
    paths: Iterable[Path] = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_the_same_seed_gives_the_same_dataset(tmp_path: Path) -> None:
    datasets = []
    for name in ("a", "b"):
        generate_faces(FacesConfig(output=str(tmp_path / name), num_identities=3, images_per_identity=2))
        datasets.append({key: data for key, data in files(tmp_path / name).items() if key != "faces.json"})
    assert datasets[0] == datasets[1]
    assert len(datasets[0]) == 3 * 2 * 3


def test_identities_are_distinct_and_a_larger_number_extends_the_list() -> None:
    few, many = (sample_identities(FacesConfig(num_identities=count)) for count in (200, 400))
    assert len({person.name for person in many}) == 400
    assert many[:200] == few


def test_an_identity_can_be_parsed_from_its_name() -> None:
    assert Identity.parse(PERSON.name) == PERSON


def test_an_invalid_identity_name_is_refused() -> None:
    with pytest.raises(DataError, match="is not the name of an identity"):
        Identity.parse("somebody")


def test_the_scene_caption_does_not_describe_the_person() -> None:
    assert SCENE.caption() == "a portrait of a smiling person in a red shirt on a navy background"


def test_some_captions_describe_the_person() -> None:
    complete, alone, _ = extra_captions(PERSON, SCENE, random.Random(0))
    assert "with tan skin, a round ginger afro and round glasses" in complete
    assert alone == "a portrait of a person with tan skin, a round ginger afro and round glasses"


def test_every_attribute_changes_the_image() -> None:
    reference = render(PERSON, SCENE).tobytes()
    changes = {"head": "bun", "hair": "blue", "skin": "pale", "beard": "full", "accessory": "none"}
    assert all(
        render(Identity(**{**vars(PERSON), name: value}), SCENE).tobytes() != reference
        for name, value in changes.items()
    )


def test_a_finished_dataset_is_left_unchanged_and_another_configuration_is_refused(tmp_path: Path) -> None:
    config = FacesConfig(output=str(tmp_path / "faces"), num_identities=1, images_per_identity=1)
    generate_faces(config)
    before = files(tmp_path / "faces")
    generate_faces(config)
    assert files(tmp_path / "faces") == before
    with pytest.raises(ConfigError, match="another configuration"):
        generate_faces(FacesConfig(output=config.output, num_identities=2, images_per_identity=1))


def test_a_dataset_of_an_earlier_version_is_recognized(tmp_path: Path) -> None:
    config = FacesConfig(output=str(tmp_path), num_identities=1, images_per_identity=1)
    old = {"output": str(tmp_path), "identities": 1, "pictures": 1, "size": 64, "seed": 0}
    (tmp_path / "faces.json").write_text(json.dumps(old))
    assert generate_faces(config) == tmp_path
    (tmp_path / "faces.json").write_text(json.dumps(old | {"pictures": 2}))
    with pytest.raises(ConfigError, match="another configuration"):
        generate_faces(config)
