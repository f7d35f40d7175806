from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest
from PIL import Image

from encoder.concepts.concept import Concept
from encoder.images import open_image
from encoder.model.sampling import seeded_generators
from pipelines.app.backend import TuningBackend
from pipelines.app.session import MAX_WAITING, PageUpdate, Session
from tests.pipelines.app.served import RELEASE

FACES = "faces 1.0.1"


@pytest.fixture(scope="module")
def backend() -> TuningBackend:
    return TuningBackend([str(RELEASE)], device="cpu")


@pytest.fixture
def session(backend: TuningBackend, tmp_path: Path) -> Session:
    return Session(backend, tmp_path)


def tuned(session: Session, image: Path, steps: int = 1) -> str:
    """Tune and return the path of the concept's file."""
    [path] = [update.concept_path for update in session.tune("me", FACES, str(image), steps) if update.concept_path]
    return path


def last(updates: Iterator[PageUpdate]) -> PageUpdate:
    return list(updates)[-1]


def test_previews_do_not_change_the_tuned_concept(session: Session, backend: TuningBackend, image: Path) -> None:
    expected = backend.pipeline_for(FACES).tune(open_image(image), steps=2)
    assert Path(tuned(session, image, steps=2)).read_bytes() == expected.to_bytes()


def test_previews_appear_during_tuning(session: Session, image: Path) -> None:
    strips = [update.preview_strip for update in session.tune("me", FACES, str(image), 2) if update.preview_strip]
    assert [strip.count("<img") for strip in strips] == [1, 2, 3, 4]  # the input image, then one more preview each time


def test_stop_keeps_the_concept_tuned_so_far(session: Session, image: Path) -> None:
    seen = []
    for update in session.tune("me", FACES, str(image), 40):
        seen.append(update)
        if "Step 1 of 40" in (update.tuning_status or ""):
            session.stop("me")
    assert Concept.load(seen[-1].concept_path).settings["steps"] == 1
    assert seen[-1].can_stop is False


def test_a_visitor_cannot_stop_the_tuning_of_another(session: Session, image: Path) -> None:
    tuning = session.tune("me", FACES, str(image), 1)
    next(tuning)
    session.stop("somebody else")
    assert Concept.load(last(tuning).concept_path).settings["steps"] == 1


def test_the_second_visitor_waits_and_continues_when_the_first_leaves(session: Session, image: Path) -> None:
    first, second = (session.tune(visitor, FACES, str(image), 1) for visitor in ("first", "second"))
    next(first)
    assert "1 ahead of you" in next(second).tuning_status
    first.close()
    assert last(second).concept_path


def test_leaving_while_tuning_restores_the_release(session: Session, backend: TuningBackend, image: Path) -> None:
    before = backend.pipeline_for(FACES)(
        "a portrait of a person", num_inference_steps=2, generator=seeded_generators(0, 1)
    )[0].tobytes()
    tuning = session.tune("me", FACES, str(image), 5)
    for update in tuning:
        if "Step 2" in (update.tuning_status or ""):
            break
    tuning.close()
    assert (
        backend.pipeline_for(FACES)("a portrait of a person", num_inference_steps=2, generator=seeded_generators(0, 1))[
            0
        ].tobytes()
        == before
    )


def test_stopping_while_waiting_leaves_the_queue(session: Session, image: Path) -> None:
    first, second = (session.tune(visitor, FACES, str(image), 1) for visitor in ("first", "second"))
    next(first)
    next(second)
    session.stop("second")
    assert "left the queue" in last(second).tuning_status
    first.close()


def test_a_full_queue_is_reported_in_one_line(session: Session, image: Path) -> None:
    updates = [session.tune(str(number), FACES, str(image), 1) for number in range(MAX_WAITING + 2)]
    *_, beyond = (next(generator) for generator in updates)
    assert "try again in a minute" in beyond.tuning_status
    for generator in updates:
        generator.close()


def test_a_file_that_is_not_an_image_is_reported_without_its_path(session: Session, tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("not an image")
    for update in (
        session.on_upload(str(tmp_path / "notes.png")),
        last(session.tune("me", FACES, str(tmp_path / "notes.png"), 1)),
    ):
        assert "cannot be read as an image" in update.tuning_status
        assert str(tmp_path) not in update.tuning_status


def test_a_decompression_bomb_is_refused(session: Session, tmp_path: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    assert "cannot be read as an image" in session.on_upload(str(tmp_path / "bomb.png")).tuning_status


def test_tuning_without_an_image_is_reported(session: Session) -> None:
    assert "Upload an image first." in last(session.tune("me", FACES, None, 1)).tuning_status


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "Write a prompt first"),
        ("a portrait of a person", "Write *s where the concept belongs"),
        ("\n".join(["a *s"] * 9), "at most 8 prompts"),
        ("*s" * 200, "300 characters"),
    ],
)
def test_invalid_prompts_are_reported(session: Session, text: str, says: str) -> None:
    assert says in last(session.generate("concept", text, 1, 2, 0)).generation_status


def test_generating_before_tuning_is_reported(session: Session) -> None:
    assert "Tune on an image first" in last(session.generate(None, "a *s", 1, 2, 0)).generation_status


def test_an_expired_concept_is_reported(session: Session, tmp_path: Path) -> None:
    assert "tune again" in last(session.generate(str(tmp_path / "gone"), "a *s", 1, 2, 0)).generation_status


def test_images_appear_prompt_by_prompt_and_are_zipped(session: Session, image: Path) -> None:
    updates = list(session.generate(tuned(session, image), "a portrait of a *s\n\na <b>bold</b> *s", 2, 2, 5))
    galleries = [update.gallery for update in updates if update.gallery]
    assert [gallery.count("<img") for gallery in galleries] == [2, 4]
    assert "&lt;b&gt;" in galleries[-1]
    assert "<b>" not in galleries[-1]
    with ZipFile(updates[-1].zip_path) as archive:
        names = [f"prompt-{prompt}-seed-{seed}.png" for prompt in (1, 2) for seed in (5, 6)]
        assert archive.namelist() == [*names, "prompts.txt"]
        with archive.open(names[0]) as file:
            assert Image.open(file).size == (64, 64)
