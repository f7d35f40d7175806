"""The actions of a visitor, independent of widgets: each yields the parts of the page that change."""

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

from PIL import Image

from e4t_errors import ConfigError
from encoder.errors import ModelError
from encoder.images import open_image
from encoder.placeholder import PLACEHOLDER, has_placeholder
from pipelines.app import html
from pipelines.app.backend import TuningBackend
from pipelines.app.wait_queue import Ticket, WaitQueue
from pipelines.errors import RunError

MAX_PROMPTS, MAX_PROMPT_LENGTH = 8, 300
MAX_WAITING = 8
"""Number of visitors who may wait in the queue."""
FILE_TTL_HOURS = 6
"""Hours for which files can be downloaded."""
POLL_SECONDS = 1.0
"""Seconds between updates of a visitor's place in the queue."""
USER_ERRORS = (ModelError, ConfigError, RunError)


@dataclass(frozen=True, kw_only=True)
class PageUpdate:
    """New contents of the page; parts that are None do not change."""

    tuning_status: str | None = None
    """HTML of the status line of the tuning section."""
    preview_strip: str | None = None
    """HTML of the input image and the previews."""
    generation_status: str | None = None
    """HTML of the status line of the generation section."""
    gallery: str | None = None
    """HTML of the generated images."""
    concept_path: str | None = None
    """Path of the tuned concept's file."""
    zip_path: str | None = None
    """Path of a zip file with all generated images."""
    can_stop: bool | None = None
    """Whether the Stop button is enabled."""


class Session:
    """Serve all visitors. Tuning and generation run for one visitor at a time; files are written to ``folder``."""

    def __init__(self, backend: TuningBackend, folder: Path) -> None:
        self._backend, self._folder = backend, folder
        self._queue, self._stop_requested = WaitQueue(MAX_WAITING), set[str]()

    def on_upload(self, image_path: str | None) -> PageUpdate:
        """Check and show an uploaded image."""
        if image_path is None:
            return PageUpdate(tuning_status=html.status(""), preview_strip=html.preview_strip(None, []))
        try:
            return PageUpdate(
                tuning_status=html.status("Ready to tune."),
                preview_strip=html.preview_strip(_open_upload(image_path), []),
            )
        except ModelError as error:
            return PageUpdate(tuning_status=html.error(error), preview_strip=html.preview_strip(None, []))

    def tune(self, visitor: str, release: str, image_path: str | None, steps: int) -> Iterator[PageUpdate]:
        """Tune on an image. ``stop`` ends tuning early and keeps the concept tuned so far."""
        self._stop_requested.discard(visitor)
        try:
            if image_path is None:
                raise ModelError("Upload an image first.")
            image = _open_upload(image_path)
            with self._queue.ticket() as ticket:
                for line in self._wait_in_queue(ticket, visitor):
                    yield PageUpdate(tuning_status=line, can_stop=True)
                if visitor not in self._stop_requested:
                    yield from self._tune(visitor, release, image, steps)
                else:
                    yield PageUpdate(tuning_status=html.status("You have left the queue."), can_stop=False)
        except USER_ERRORS as error:
            yield PageUpdate(tuning_status=html.error(error), can_stop=False)

    def _wait_in_queue(self, ticket: Ticket, visitor: str = "") -> Iterator[str]:
        """Yield status lines with the number of visitors ahead, until it is this visitor's turn or they stop."""
        while (num_ahead := ticket.num_ahead()) and visitor not in self._stop_requested:
            yield html.status(f"Waiting: {num_ahead} ahead of you.")
            ticket.wait(POLL_SECONDS)

    def _tune(self, visitor: str, release: str, image: Image.Image, steps: int) -> Iterator[PageUpdate]:
        previews: list[tuple[int, Image.Image]] = []
        yield PageUpdate(
            tuning_status=html.progress("Encoding the image", 0, steps),
            preview_strip=html.preview_strip(image, []),
            can_stop=True,
        )
        for event in self._backend.tune(release, image, steps, lambda: visitor in self._stop_requested):
            if event.preview:
                previews.append((event.step, event.preview))
            if not event.concept:
                status = html.progress(f"Step {event.step} of {steps}", event.step, steps)
                preview_strip = html.preview_strip(image, previews) if event.preview else None
                yield PageUpdate(tuning_status=status, preview_strip=preview_strip)
                continue
            path = Path(mkdtemp(dir=self._folder)) / "concept.safetensors"
            path.write_bytes(event.concept.to_bytes())
            outcome = "Stopped" if event.step < steps else "Tuned"
            count = html.pluralize(event.step, "step")
            status = html.status(f"{outcome} after {count}. Now write prompts, or download the concept.")
            yield PageUpdate(tuning_status=status, concept_path=str(path), can_stop=False)

    def stop(self, visitor: str) -> None:
        """Stop this visitor's tuning, because they clicked Stop or closed the page."""
        self._stop_requested.add(visitor)

    def generate(
        self, concept_path: str | None, text: str, variants: int, steps: int, seed: int
    ) -> Iterator[PageUpdate]:
        """Generate ``variants`` images for each line of ``text``; images appear prompt by prompt."""
        try:
            prompts = _parse_prompts(text)
            if concept_path is None:
                raise ModelError(f"Tune on an image first: {PLACEHOLDER} stands for the tuned concept.")
            if not Path(concept_path).exists():
                raise ModelError(f"Concepts are kept for {FILE_TTL_HOURS} hours and this one has expired; tune again.")
            with self._queue.ticket() as ticket:
                for line in self._wait_in_queue(ticket):
                    yield PageUpdate(generation_status=line)
                rows: list[list[Image.Image]] = []
                yield PageUpdate(generation_status=html.progress("Generating", 0, len(prompts)))
                results = self._backend.generate(Path(concept_path), prompts, variants=variants, steps=steps, seed=seed)
                for row in results:
                    rows.append(row)
                    status = html.progress(f"Generated {len(rows)} of {len(prompts)} prompts", len(rows), len(prompts))
                    yield PageUpdate(generation_status=status, gallery=html.gallery(prompts, rows))
            zip_path = self._write_zip(prompts, rows, seed)
            yield PageUpdate(
                generation_status=html.status(f"{html.pluralize(variants * len(rows), 'image')} generated."),
                zip_path=zip_path,
            )
        except USER_ERRORS as error:
            yield PageUpdate(generation_status=html.error(error))

    def _write_zip(self, prompts: Sequence[str], rows: Sequence[Sequence[Image.Image]], seed: int) -> str:
        """Write all images and their prompts to a zip file and return its path."""
        path = Path(mkdtemp(dir=self._folder)) / "images.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for number, row in enumerate(rows, start=1):
                for variant, image in enumerate(row):
                    with archive.open(f"prompt-{number}-seed-{seed + variant}.png", "w") as file:
                        image.save(file, "PNG")
            archive.writestr(
                "prompts.txt", "".join(f"{number} {prompt}\n" for number, prompt in enumerate(prompts, start=1))
            )
        return str(path)


def _open_upload(path: str) -> Image.Image:
    """Open an uploaded image. The error message does not contain the path on the server."""
    try:
        return open_image(path)
    except ModelError as error:
        raise ModelError("This file cannot be read as an image; upload a PNG, JPEG or WebP file.") from error


def _parse_prompts(text: str) -> list[str]:
    prompts = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    if not prompts:
        raise ModelError(f"Write a prompt first: a portrait of a laughing {PLACEHOLDER}.")
    if len(prompts) > MAX_PROMPTS or max(map(len, prompts)) > MAX_PROMPT_LENGTH:
        raise ModelError(f"Write at most {MAX_PROMPTS} prompts of {MAX_PROMPT_LENGTH} characters.")
    for prompt in prompts:
        if not has_placeholder(prompt):
            raise ModelError(
                f"Write {PLACEHOLDER} where the concept belongs in “{prompt}”: a portrait of a {PLACEHOLDER}."
            )
    return prompts
