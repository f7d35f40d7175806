from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest
from PIL import Image

from encoder.concepts.concept import Concept
from encoder.images import open_image
from pipelines.app.backend import TuningBackend
from pipelines.app.session import MAX_WAITING, PageUpdate, Session
from tests.pipelines.app.served import RELEASE

FACES = "faces 1.0.1"


@pytest.fixture(scope="module")
def studio() -> TuningBackend:
    return TuningBackend([str(RELEASE)], device="cpu")


@pytest.fixture
def desk(studio: TuningBackend, tmp_path: Path) -> Session:
    return Session(studio, tmp_path)


def tuned(desk: Session, picture: Path, steps: int = 1) -> str:
    """The concept's file."""
    [path] = [shown.concept_path for shown in desk.tune("me", FACES, str(picture), steps) if shown.concept_path]
    return path


def last(acts: Iterator[PageUpdate]) -> PageUpdate:
    return list(acts)[-1]


def test_the_concept_is_the_one_that_tuning_without_previews_gives(
    desk: Session, studio: TuningBackend, picture: Path
) -> None:
    alone = studio.pipeline_for(FACES).tune(open_image(picture), steps=2)
    assert Path(tuned(desk, picture, steps=2)).read_bytes() == alone.to_bytes()


def test_previews_appear_on_the_way(desk: Session, picture: Path) -> None:
    films = [shown.preview_strip for shown in desk.tune("me", FACES, str(picture), 2) if shown.preview_strip]
    assert [film.count("<img") for film in films] == [1, 2, 3, 4]  # the picture, then a preview more each time


def test_stop_keeps_what_has_been_learned(desk: Session, picture: Path) -> None:
    seen = []
    for shown in desk.tune("me", FACES, str(picture), 40):
        seen.append(shown)
        if "Step 1 of 40" in (shown.tuning_status or ""):
            desk.stop("me")
    assert Concept.load(seen[-1].concept).settings["steps"] == 1
    assert seen[-1].busy is False


def test_nobody_is_stopped_by_another_visitor(desk: Session, picture: Path) -> None:
    tuning = desk.tune("me", FACES, str(picture), 1)
    next(tuning)
    desk.stop("somebody else")
    assert Concept.load(last(tuning).concept_path).settings["steps"] == 1


def test_who_comes_second_is_told_so_and_goes_on_when_the_first_has_gone_away(desk: Session, picture: Path) -> None:
    first, second = (desk.tune(visitor, FACES, str(picture), 1) for visitor in ("first", "second"))
    next(first)
    assert "1 before you" in next(second).tuning_status
    first.close()
    assert last(second).concept_path


def test_who_goes_away_while_tuning_leaves_the_release_as_it_was(
    desk: Session, studio: TuningBackend, picture: Path
) -> None:
    before = studio.pipeline_for(FACES)("a portrait of a person", steps=2)[0].tobytes()
    tuning = desk.tune("me", FACES, str(picture), 5)
    for shown in tuning:
        if "Step 2" in (shown.tuning_status or ""):
            break
    tuning.close()
    assert studio.pipeline_for(FACES)("a portrait of a person", steps=2)[0].tobytes() == before


def test_who_stops_while_waiting_leaves_the_line(desk: Session, picture: Path) -> None:
    first, second = (desk.tune(visitor, FACES, str(picture), 1) for visitor in ("first", "second"))
    next(first)
    next(second)
    desk.stop("second")
    assert "left the line" in last(second).tuning_status
    first.close()


def test_a_full_line_is_one_line(desk: Session, picture: Path) -> None:
    acts = [desk.tune(str(number), FACES, str(picture), 1) for number in range(MAX_WAITING + 2)]
    *_, beyond = (next(act) for act in acts)
    assert "try again in a minute" in beyond.tuning_status
    for act in acts:
        act.close()


def test_a_file_that_is_no_picture_is_one_line_that_tells_no_path(desk: Session, tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("not a picture")
    for shown in (
        desk.on_upload(str(tmp_path / "notes.png")),
        last(desk.tune("me", FACES, str(tmp_path / "notes.png"), 1)),
    ):
        assert "cannot be read as a picture" in shown.tuning_status
        assert str(tmp_path) not in shown.tuning_status


def test_a_decompression_bomb_is_refused(desk: Session, tmp_path: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    assert "cannot be read as a picture" in desk.on_upload(str(tmp_path / "bomb.png")).tuning_status


def test_tuning_without_a_picture_is_one_line(desk: Session) -> None:
    assert "Give a picture first." in last(desk.tune("me", FACES, None, 1)).tuning_status


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "Write a prompt first"),
        ("a portrait of a person", "Write *s where the concept stands"),
        ("\n".join(["a *s"] * 9), "at most 8 prompts"),
        ("*s" * 200, "300 characters"),
    ],
)
def test_prompts_that_cannot_be_painted_are_one_line(desk: Session, text: str, says: str) -> None:
    assert says in last(desk.generate("concept", text, 1, 2, 0)).generation_status


def test_painting_before_tuning_is_one_line(desk: Session) -> None:
    assert "Tune on a picture first" in last(desk.generate(None, "a *s", 1, 2, 0)).generation_status


def test_a_concept_that_was_swept_away_is_one_line(desk: Session, tmp_path: Path) -> None:
    assert "tune again" in last(desk.generate(str(tmp_path / "gone"), "a *s", 1, 2, 0)).generation_status


def test_pictures_come_prompt_by_prompt_and_all_of_them_as_one_file(desk: Session, picture: Path) -> None:
    acts = list(desk.generate(tuned(desk, picture), "a portrait of a *s\n\na <b>bold</b> *s", 2, 2, 5))
    walls = [shown.gallery for shown in acts if shown.gallery]
    assert [wall.count("<img") for wall in walls] == [2, 4]
    assert "&lt;b&gt;" in walls[-1]
    assert "<b>" not in walls[-1]
    with ZipFile(acts[-1].zip_path) as bundle:
        pictures = [f"prompt-{prompt}-seed-{seed}.png" for prompt in (1, 2) for seed in (5, 6)]
        assert bundle.namelist() == [*pictures, "prompts.txt"]
        with bundle.open(pictures[0]) as file:
            assert Image.open(file).size == (64, 64)
