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
from e4t import ConfigError

PERSON = Identity(head="afro", hair="ginger", skin="tan", beard="none", accessory="glasses5")
SCENE = Scene(expression="smiling", clothes="red", background="navy")


def files(folder: Path) -> dict[str, bytes]:
    paths: Iterable[Path] = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_the_same_seed_draws_the_same_set(tmp_path: Path) -> None:
    sets = []
    for name in ("a", "b"):
        generate_faces(FacesConfig(output=str(tmp_path / name), num_identities=3, images_per_identity=2))
        sets.append({key: data for key, data in files(tmp_path / name).items() if key != "faces.json"})
    assert sets[0] == sets[1]
    assert len(sets[0]) == 3 * 2 * 3


def test_no_two_identities_are_alike_and_more_extend_the_list() -> None:
    few, many = (sample_identities(FacesConfig(num_identities=count)) for count in (200, 400))
    assert len({person.name for person in many}) == 400
    assert many[:200] == few


def test_a_name_gives_its_identity_back() -> None:
    assert Identity.parse(PERSON.name) == PERSON


def test_a_name_that_is_no_identity_is_refused() -> None:
    with pytest.raises(DataError, match="not a drawn identity"):
        Identity.parse("somebody")


def test_the_scenes_caption_says_nothing_of_the_person() -> None:
    assert SCENE.caption() == "a portrait of a smiling person in a red shirt on a navy background"


def test_some_captions_describe_the_person() -> None:
    complete, alone, _ = extra_captions(PERSON, SCENE, random.Random(0))
    assert "with tan skin, a round ginger afro and round glasses" in complete
    assert alone == "a portrait of a person with tan skin, a round ginger afro and round glasses"


def test_every_attribute_changes_the_picture() -> None:
    reference = render(PERSON, SCENE).tobytes()
    changes = {"head": "bun", "hair": "blue", "skin": "pale", "beard": "full", "accessory": "none"}
    assert all(
        render(Identity(**{**vars(PERSON), name: value}), SCENE).tobytes() != reference
        for name, value in changes.items()
    )


def test_a_finished_set_is_left_as_it_is_and_another_configuration_refused(tmp_path: Path) -> None:
    config = FacesConfig(output=str(tmp_path / "faces"), num_identities=1, images_per_identity=1)
    generate_faces(config)
    before = files(tmp_path / "faces")
    generate_faces(config)
    assert files(tmp_path / "faces") == before
    with pytest.raises(ConfigError, match="another configuration"):
        generate_faces(FacesConfig(output=config.output, num_identities=2, images_per_identity=1))
