from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest
from PIL import Image

from encoder.concepts.concept import Concept
from encoder.images import open_image
from pipelines.app.backend import Studio
from pipelines.app.session import WAITING, Desk, Shown
from tests.pipelines.app.served import RELEASE

FACES = "faces 1.0.1"


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio([str(RELEASE)], device="cpu")


@pytest.fixture
def desk(studio: Studio, tmp_path: Path) -> Desk:
    return Desk(studio, tmp_path)


def tuned(desk: Desk, picture: Path, steps: int = 1) -> str:
    """The concept's file."""
    [path] = [shown.concept for shown in desk.tune("me", FACES, str(picture), steps) if shown.concept]
    return path


def last(acts: Iterator[Shown]) -> Shown:
    return list(acts)[-1]


def test_the_concept_is_the_one_that_tuning_without_previews_gives(desk: Desk, studio: Studio, picture: Path) -> None:
    alone = studio.pipe(FACES).tune(open_image(picture), steps=2)
    assert Path(tuned(desk, picture, steps=2)).read_bytes() == alone.to_bytes()


def test_previews_appear_on_the_way(desk: Desk, picture: Path) -> None:
    films = [shown.film for shown in desk.tune("me", FACES, str(picture), 2) if shown.film]
    assert [film.count("<img") for film in films] == [1, 2, 3, 4]  # the picture, then a preview more each time


def test_stop_keeps_what_has_been_learned(desk: Desk, picture: Path) -> None:
    seen = []
    for shown in desk.tune("me", FACES, str(picture), 40):
        seen.append(shown)
        if "Step 1 of 40" in (shown.tuning or ""):
            desk.stop("me")
    assert Concept.load(seen[-1].concept).settings["steps"] == 1
    assert seen[-1].busy is False


def test_nobody_is_stopped_by_another_visitor(desk: Desk, picture: Path) -> None:
    tuning = desk.tune("me", FACES, str(picture), 1)
    next(tuning)
    desk.stop("somebody else")
    assert Concept.load(last(tuning).concept).settings["steps"] == 1


def test_who_comes_second_is_told_so_and_goes_on_when_the_first_has_gone_away(desk: Desk, picture: Path) -> None:
    first, second = (desk.tune(visitor, FACES, str(picture), 1) for visitor in ("first", "second"))
    next(first)
    assert "1 before you" in next(second).tuning
    first.close()
    assert last(second).concept


def test_who_goes_away_while_tuning_leaves_the_release_as_it_was(desk: Desk, studio: Studio, picture: Path) -> None:
    before = studio.pipe(FACES)("a portrait of a person", steps=2)[0].tobytes()
    tuning = desk.tune("me", FACES, str(picture), 5)
    for shown in tuning:
        if "Step 2" in (shown.tuning or ""):
            break
    tuning.close()
    assert studio.pipe(FACES)("a portrait of a person", steps=2)[0].tobytes() == before


def test_who_stops_while_waiting_leaves_the_line(desk: Desk, picture: Path) -> None:
    first, second = (desk.tune(visitor, FACES, str(picture), 1) for visitor in ("first", "second"))
    next(first)
    next(second)
    desk.stop("second")
    assert "left the line" in last(second).tuning
    first.close()


def test_a_full_line_is_one_line(desk: Desk, picture: Path) -> None:
    acts = [desk.tune(str(number), FACES, str(picture), 1) for number in range(WAITING + 2)]
    *_, beyond = (next(act) for act in acts)
    assert "try again in a minute" in beyond.tuning
    for act in acts:
        act.close()


def test_a_file_that_is_no_picture_is_one_line_that_tells_no_path(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("not a picture")
    for shown in (
        desk.receive(str(tmp_path / "notes.png")),
        last(desk.tune("me", FACES, str(tmp_path / "notes.png"), 1)),
    ):
        assert "cannot be read as a picture" in shown.tuning
        assert str(tmp_path) not in shown.tuning


def test_a_decompression_bomb_is_refused(desk: Desk, tmp_path: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    assert "cannot be read as a picture" in desk.receive(str(tmp_path / "bomb.png")).tuning


def test_tuning_without_a_picture_is_one_line(desk: Desk) -> None:
    assert "Give a picture first." in last(desk.tune("me", FACES, None, 1)).tuning


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "Write a prompt first"),
        ("a portrait of a person", "Write *s where the concept stands"),
        ("\n".join(["a *s"] * 9), "at most 8 prompts"),
        ("*s" * 200, "300 characters"),
    ],
)
def test_prompts_that_cannot_be_painted_are_one_line(desk: Desk, text: str, says: str) -> None:
    assert says in last(desk.paint("concept", text, 1, 2, 0)).painting


def test_painting_before_tuning_is_one_line(desk: Desk) -> None:
    assert "Tune on a picture first" in last(desk.paint(None, "a *s", 1, 2, 0)).painting


def test_a_concept_that_was_swept_away_is_one_line(desk: Desk, tmp_path: Path) -> None:
    assert "tune again" in last(desk.paint(str(tmp_path / "gone"), "a *s", 1, 2, 0)).painting


def test_pictures_come_prompt_by_prompt_and_all_of_them_as_one_file(desk: Desk, picture: Path) -> None:
    acts = list(desk.paint(tuned(desk, picture), "a portrait of a *s\n\na <b>bold</b> *s", 2, 2, 5))
    walls = [shown.wall for shown in acts if shown.wall]
    assert [wall.count("<img") for wall in walls] == [2, 4]
    assert "&lt;b&gt;" in walls[-1]
    assert "<b>" not in walls[-1]
    with ZipFile(acts[-1].bundle) as bundle:
        pictures = [f"prompt-{prompt}-seed-{seed}.png" for prompt in (1, 2) for seed in (5, 6)]
        assert bundle.namelist() == [*pictures, "prompts.txt"]
        with bundle.open(pictures[0]) as file:
            assert Image.open(file).size == (64, 64)
