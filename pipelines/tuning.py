"""``e4t tune``: a concept of a picture, of several, or one of each; what was tuned before is taken from the cache."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.config import sha256_json
from data_prep.storage.atomic import sha256_file
from encoder.concepts.concept import FORMAT_VERSION, Concept
from encoder.errors import ModelError
from encoder.images import open_image
from encoder.releases.release import Release

if TYPE_CHECKING:
    from encoder.pipeline import E4TPipeline
import os
import shutil

from data_prep.storage.atomic import atomic_dir_shared


class ConceptCache:
    """A folder of concept folders that together take at most ``bytes``; 0 keeps none."""

    def __init__(self, folder: Path, bytes_: int) -> None:
        self._folder, self._bytes = folder, bytes_

    def take(self, key: str, output: Path) -> bool:
        """Put a kept concept at ``output``; False if there is none."""
        kept = self._folder / key
        if not kept.is_dir():
            return False
        os.utime(kept)
        _link(kept, output)
        return True

    def keep(self, key: str, concept: Path) -> None:
        """Keep a concept folder, without a second copy where the disk can."""
        if self._bytes:
            _link(concept, self._folder / key)
            self._make_room()

    def _make_room(self) -> None:
        newest_first = sorted(self._folder.glob("[0-9a-f]*"), key=lambda kept: kept.stat().st_mtime, reverse=True)
        total = 0
        for kept in newest_first:
            total += sum(file.stat().st_size for file in kept.iterdir())
            if total > self._bytes:
                shutil.rmtree(kept, ignore_errors=True)


Watch = Callable[[int, int], None]
"""Called with the steps done and the steps to do."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """A concept to be made, and of what."""

    images: Sequence[str]
    output: Path
    masks: Sequence[str] | None = None
    captions: Sequence[str] | None = None
    start: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    """Fields of ``tune`` in place of the method's or the release's own."""

    def __post_init__(self) -> None:
        if self.output.exists():
            raise ModelError(f"{self.output} exists; give another --output or delete it")
        for path in (*self.images, *(self.masks or ())):
            open_image(path)  # before a model is loaded
        if self.start:
            Concept.load(self.start)

    def key(self, release: Release, how: Sequence[Any]) -> str:
        """Digest of everything that decides the concept; ``how`` is the method and what the base is held as."""
        shown = [[sha256_file(Path(path)) for path in paths or ()] for paths in (self.images, self.masks)]
        start = self.start and Concept.load(self.start).digest
        said = [self.captions, start, self.settings, *how]
        return sha256_json([FORMAT_VERSION, release.id, release.content_digest, release.base, shown, said])


def each_of(order: Order) -> Iterator[Order]:
    """An order for each of an order's pictures: concepts in its output, called after the pictures."""
    names = [Path(image).stem for image in order.images]
    if len(set(names)) < len(names):
        raise ModelError("two pictures have the same name, and concepts are called after their pictures; rename one")
    for index, name in enumerate(names):
        yield replace(
            order,
            images=order.images[index : index + 1],
            masks=order.masks and order.masks[index : index + 1],
            captions=order.captions and order.captions[index : index + 1],
            output=order.output / name,
        )


@dataclass(frozen=True)
class Made:
    """A concept that is there."""

    folder: Path
    seconds: float
    """Of tuning alone; 0 for one that was made before."""


def tune_all(
    orders: Sequence[Order],
    release: Release,
    how: Sequence[Any],
    opened: Callable[[], "E4TPipeline"],
    cache: ConceptCache,
    watch: Watch,
) -> Iterator[Made]:
    """Make the concepts in turn; the pipeline is opened once, and only if one of them was never made."""
    pipe = None
    for order in orders:
        key = order.key(release, how)
        if cache.take(key, order.output):
            yield Made(order.output, 0.0)
            continue
        pipe = pipe or opened()
        began = time.monotonic()
        concept = _tuned(pipe, order, watch)
        seconds = time.monotonic() - began
        cache.keep(key, concept.save(order.output))
        yield Made(order.output, seconds)


def _tuned(pipe: "E4TPipeline", order: Order, watch: Watch) -> Concept:
    total = order.settings.get("steps", pipe.tune_config.steps)
    return pipe.tune(
        [open_image(path) for path in order.images],
        mask=[open_image(path) for path in order.masks] if order.masks else None,
        caption=order.captions,
        init_concept=Concept.load(order.start) if order.start else None,
        on_step=lambda step, _: watch(step, total),
        **order.settings,
    )


def _link(source: Path, place: Path) -> None:
    with atomic_dir_shared(place) as folder:
        for file in source.iterdir():
            try:
                os.link(file, folder / file.name)
            except OSError:  # another disk
                shutil.copyfile(file, folder / file.name)
