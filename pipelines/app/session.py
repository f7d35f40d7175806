"""What a visitor of the page can do, apart from the widgets: each act yields what of the page changes."""

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

from PIL import Image

from encoder.config import PLACEHOLDER
from encoder.errors import ConfigError, ModelError
from encoder.images import open_image
from pipelines.app import html as pieces
from pipelines.app.backend import Studio
from pipelines.app.wait_queue import Place, Turns
from pipelines.errors import RunError

MOST_PROMPTS, LONGEST_PROMPT = 8, 300
WAITING = 8
"""Visitors who may stand in line."""
KEPT_HOURS = 6
"""That files stay for download."""
LOOK_AROUND = 1.0
"""Seconds after which one who waits is asked whether they are still there."""
REFUSALS = (ModelError, ConfigError, RunError)


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What of the page changes; what is None stays as it is."""

    tuning: str | None = None
    """The line under the first act's buttons."""
    film: str | None = None
    """The picture and the previews."""
    painting: str | None = None
    """The line under the second act's button."""
    wall: str | None = None
    """The pictures by prompt."""
    concept: str | None = None
    """File of the tuned concept."""
    bundle: str | None = None
    """File of all the pictures."""
    busy: bool | None = None
    """Whether there is something to stop."""


class Desk:
    """Serves every visitor, one at a time where something is computed; files are laid into ``folder``."""

    def __init__(self, studio: Studio, folder: Path) -> None:
        self._studio, self._folder = studio, folder
        self._turns, self._enough = Turns(WAITING), set[str]()

    def receive(self, picture: str | None) -> Shown:
        """Look at a picture that has been uploaded."""
        if picture is None:
            return Shown(tuning=pieces.said(""), film=pieces.film(None, []))
        try:
            return Shown(tuning=pieces.said("Ready to tune."), film=pieces.film(_opened(picture), []))
        except ModelError as error:
            return Shown(tuning=pieces.refused(error), film=pieces.film(None, []))

    def tune(self, visitor: str, release: str, picture: str | None, steps: int) -> Iterator[Shown]:
        """Tune on a picture; the visitor's ``stop`` ends it with what has been learned by then."""
        self._enough.discard(visitor)
        try:
            if picture is None:
                raise ModelError("Give a picture first.")
            given = _opened(picture)
            with self._turns.place() as place:
                for line in self._in_line(place, visitor):
                    yield Shown(tuning=line, busy=True)
                if visitor not in self._enough:
                    yield from self._tune(visitor, release, given, steps)
                else:
                    yield Shown(tuning=pieces.said("You have left the line."), busy=False)
        except REFUSALS as error:
            yield Shown(tuning=pieces.refused(error), busy=False)

    def _in_line(self, place: Place, visitor: str = "") -> Iterator[str]:
        """How many are before, until none is or the visitor has had enough of waiting."""
        while (before := place.before()) and visitor not in self._enough:
            yield pieces.said(f"In line: {before} before you.")
            place.wait(LOOK_AROUND)

    def _tune(self, visitor: str, release: str, picture: Image.Image, steps: int) -> Iterator[Shown]:
        previews: list[tuple[int, Image.Image]] = []
        yield Shown(
            tuning=pieces.progress("Looking at the picture", 0, steps), film=pieces.film(picture, []), busy=True
        )
        for glance in self._studio.tune(release, picture, steps, lambda: visitor in self._enough):
            if glance.preview:
                previews.append((glance.step, glance.preview))
            if not glance.concept:
                said = pieces.progress(f"Step {glance.step} of {steps}", glance.step, steps)
                film = pieces.film(picture, previews) if glance.preview else None
                yield Shown(tuning=said, film=film)
                continue
            path = Path(mkdtemp(dir=self._folder)) / "concept.safetensors"
            path.write_bytes(glance.concept.to_bytes())
            ended = "Stopped" if glance.step < steps else "Tuned"
            count = pieces.counted(glance.step, "step")
            said = pieces.said(f"{ended} after {count}. Now write prompts, or download the concept.")
            yield Shown(tuning=said, concept=str(path), busy=False)

    def stop(self, visitor: str) -> None:
        """The visitor has had enough of tuning, or has gone away."""
        self._enough.add(visitor)

    def paint(self, concept: str | None, text: str, variants: int, steps: int, seed: int) -> Iterator[Shown]:
        """Paint a prompt a line, each in some variants; the pictures appear prompt by prompt."""
        try:
            prompts = _prompts(text)
            if concept is None:
                raise ModelError(f"Tune on a picture first: {PLACEHOLDER} stands for what that teaches.")
            if not Path(concept).exists():
                raise ModelError(f"Concepts are kept for {KEPT_HOURS} hours, and this one is gone; tune again.")
            with self._turns.place() as place:
                for line in self._in_line(place):
                    yield Shown(painting=line)
                rows: list[list[Image.Image]] = []
                yield Shown(painting=pieces.progress("Painting", 0, len(prompts)))
                painted = self._studio.paint(Path(concept), prompts, variants=variants, steps=steps, seed=seed)
                for row in painted:
                    rows.append(row)
                    said = pieces.progress(f"Painted {len(rows)} of {len(prompts)} prompts", len(rows), len(prompts))
                    yield Shown(painting=said, wall=pieces.wall(prompts, rows))
            bundle = self._bundled(prompts, rows, seed)
            yield Shown(painting=pieces.said(f"{pieces.counted(variants * len(rows), 'picture')}."), bundle=bundle)
        except REFUSALS as error:
            yield Shown(painting=pieces.refused(error))

    def _bundled(self, prompts: Sequence[str], rows: Sequence[Sequence[Image.Image]], seed: int) -> str:
        """All pictures as one zip file, with their prompts."""
        path = Path(mkdtemp(dir=self._folder)) / "pictures.zip"
        with zipfile.ZipFile(path, "w") as bundle:
            for number, row in enumerate(rows, start=1):
                for variant, picture in enumerate(row):
                    with bundle.open(f"prompt-{number}-seed-{seed + variant}.png", "w") as file:
                        picture.save(file, "PNG")
            bundle.writestr(
                "prompts.txt", "".join(f"{number} {prompt}\n" for number, prompt in enumerate(prompts, start=1))
            )
        return str(path)


def _opened(path: str) -> Image.Image:
    """A picture that was uploaded; the refusal does not say where to."""
    try:
        return open_image(path)
    except ModelError as error:
        raise ModelError("This file cannot be read as a picture; give a PNG, JPEG or WebP file.") from error


def _prompts(text: str) -> list[str]:
    prompts = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    if not prompts:
        raise ModelError(f"Write a prompt first: a portrait of a laughing {PLACEHOLDER}.")
    if len(prompts) > MOST_PROMPTS or max(map(len, prompts)) > LONGEST_PROMPT:
        raise ModelError(f"Give at most {MOST_PROMPTS} prompts of {LONGEST_PROMPT} characters.")
    for prompt in prompts:
        if PLACEHOLDER not in prompt:
            raise ModelError(
                f"Write {PLACEHOLDER} where the concept stands in “{prompt}”: a portrait of a {PLACEHOLDER}."
            )
    return prompts
