"""What a visitor of the page can do, apart from the widgets: each act yields what of the page changes."""

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

from PIL import Image

from e4t import ConfigError
from encoder.config import PLACEHOLDER
from encoder.errors import ModelError
from encoder.images import open_image
from pipelines.app import html as pieces
from pipelines.app.backend import TuningBackend
from pipelines.app.wait_queue import Ticket, WaitQueue
from pipelines.errors import RunError

MAX_PROMPTS, MAX_PROMPT_LENGTH = 8, 300
MAX_WAITING = 8
"""Visitors who may stand in line."""
FILE_TTL_HOURS = 6
"""That files stay for download."""
POLL_SECONDS = 1.0
"""Seconds after which one who waits is asked whether they are still there."""
USER_ERRORS = (ModelError, ConfigError, RunError)


@dataclass(frozen=True, kw_only=True)
class PageUpdate:
    """What of the page changes; what is None stays as it is."""

    tuning_status: str | None = None
    """The line under the first act's buttons."""
    preview_strip: str | None = None
    """The picture and the previews."""
    generation_status: str | None = None
    """The line under the second act's button."""
    gallery: str | None = None
    """The pictures by prompt."""
    concept_path: str | None = None
    """File of the tuned concept."""
    zip_path: str | None = None
    """File of all the pictures."""
    can_stop: bool | None = None
    """Whether there is something to stop."""


class Session:
    """Serves every visitor, one at a time where something is computed; files are laid into ``folder``."""

    def __init__(self, backend: TuningBackend, folder: Path) -> None:
        self._backend, self._folder = backend, folder
        self._queue, self._stop_requested = WaitQueue(MAX_WAITING), set[str]()

    def on_upload(self, image_path: str | None) -> PageUpdate:
        """Look at a picture that has been uploaded."""
        if image_path is None:
            return PageUpdate(tuning_status=pieces.status(""), preview_strip=pieces.preview_strip(None, []))
        try:
            return PageUpdate(
                tuning_status=pieces.status("Ready to tune."),
                preview_strip=pieces.preview_strip(_open_upload(image_path), []),
            )
        except ModelError as error:
            return PageUpdate(tuning_status=pieces.error(error), preview_strip=pieces.preview_strip(None, []))

    def tune(self, visitor: str, release: str, image_path: str | None, steps: int) -> Iterator[PageUpdate]:
        """Tune on a picture; the visitor's ``stop`` ends it with what has been learned by then."""
        self._stop_requested.discard(visitor)
        try:
            if image_path is None:
                raise ModelError("Give a picture first.")
            image = _open_upload(image_path)
            with self._queue.ticket() as ticket:
                for line in self._wait_in_queue(ticket, visitor):
                    yield PageUpdate(tuning_status=line, can_stop=True)
                if visitor not in self._stop_requested:
                    yield from self._tune(visitor, release, image, steps)
                else:
                    yield PageUpdate(tuning_status=pieces.status("You have left the line."), can_stop=False)
        except USER_ERRORS as error:
            yield PageUpdate(tuning_status=pieces.error(error), can_stop=False)

    def _wait_in_queue(self, ticket: Ticket, visitor: str = "") -> Iterator[str]:
        """How many are before, until none is or the visitor has had enough of waiting."""
        while (num_ahead := ticket.num_ahead()) and visitor not in self._stop_requested:
            yield pieces.status(f"In line: {num_ahead} before you.")
            ticket.wait(POLL_SECONDS)

    def _tune(self, visitor: str, release: str, image: Image.Image, steps: int) -> Iterator[PageUpdate]:
        previews: list[tuple[int, Image.Image]] = []
        yield PageUpdate(
            tuning_status=pieces.progress("Looking at the picture", 0, steps),
            preview_strip=pieces.preview_strip(image, []),
            can_stop=True,
        )
        for event in self._backend.tune(release, image, steps, lambda: visitor in self._stop_requested):
            if event.preview:
                previews.append((event.step, event.preview))
            if not event.concept:
                status = pieces.progress(f"Step {event.step} of {steps}", event.step, steps)
                preview_strip = pieces.preview_strip(image, previews) if event.preview else None
                yield PageUpdate(tuning_status=status, preview_strip=preview_strip)
                continue
            path = Path(mkdtemp(dir=self._folder)) / "concept.safetensors"
            path.write_bytes(event.concept.to_bytes())
            outcome = "Stopped" if event.step < steps else "Tuned"
            count = pieces.pluralize(event.step, "step")
            status = pieces.status(f"{outcome} after {count}. Now write prompts, or download the concept.")
            yield PageUpdate(tuning_status=status, concept_path=str(path), can_stop=False)

    def stop(self, visitor: str) -> None:
        """The visitor has had enough of tuning, or has gone away."""
        self._stop_requested.add(visitor)

    def generate(
        self, concept_path: str | None, text: str, variants: int, steps: int, seed: int
    ) -> Iterator[PageUpdate]:
        """Paint a prompt a line, each in some variants; the pictures appear prompt by prompt."""
        try:
            prompts = _parse_prompts(text)
            if concept_path is None:
                raise ModelError(f"Tune on a picture first: {PLACEHOLDER} stands for what that teaches.")
            if not Path(concept_path).exists():
                raise ModelError(f"Concepts are kept for {FILE_TTL_HOURS} hours, and this one is gone; tune again.")
            with self._queue.ticket() as ticket:
                for line in self._wait_in_queue(ticket):
                    yield PageUpdate(generation_status=line)
                rows: list[list[Image.Image]] = []
                yield PageUpdate(generation_status=pieces.progress("Painting", 0, len(prompts)))
                results = self._backend.generate(Path(concept_path), prompts, variants=variants, steps=steps, seed=seed)
                for row in results:
                    rows.append(row)
                    status = pieces.progress(f"Painted {len(rows)} of {len(prompts)} prompts", len(rows), len(prompts))
                    yield PageUpdate(generation_status=status, gallery=pieces.gallery(prompts, rows))
            zip_path = self._write_zip(prompts, rows, seed)
            yield PageUpdate(
                generation_status=pieces.status(f"{pieces.pluralize(variants * len(rows), 'picture')}."),
                zip_path=zip_path,
            )
        except USER_ERRORS as error:
            yield PageUpdate(generation_status=pieces.error(error))

    def _write_zip(self, prompts: Sequence[str], rows: Sequence[Sequence[Image.Image]], seed: int) -> str:
        """All pictures as one zip file, with their prompts."""
        path = Path(mkdtemp(dir=self._folder)) / "pictures.zip"
        with zipfile.ZipFile(path, "w") as bundle:
            for number, row in enumerate(rows, start=1):
                for variant, image in enumerate(row):
                    with bundle.open(f"prompt-{number}-seed-{seed + variant}.png", "w") as file:
                        image.save(file, "PNG")
            bundle.writestr(
                "prompts.txt", "".join(f"{number} {prompt}\n" for number, prompt in enumerate(prompts, start=1))
            )
        return str(path)


def _open_upload(path: str) -> Image.Image:
    """A picture that was uploaded; the refusal does not say where to."""
    try:
        return open_image(path)
    except ModelError as error:
        raise ModelError("This file cannot be read as a picture; give a PNG, JPEG or WebP file.") from error


def _parse_prompts(text: str) -> list[str]:
    prompts = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    if not prompts:
        raise ModelError(f"Write a prompt first: a portrait of a laughing {PLACEHOLDER}.")
    if len(prompts) > MAX_PROMPTS or max(map(len, prompts)) > MAX_PROMPT_LENGTH:
        raise ModelError(f"Give at most {MAX_PROMPTS} prompts of {MAX_PROMPT_LENGTH} characters.")
    for prompt in prompts:
        if PLACEHOLDER not in prompt:
            raise ModelError(
                f"Write {PLACEHOLDER} where the concept stands in “{prompt}”: a portrait of a {PLACEHOLDER}."
            )
    return prompts
