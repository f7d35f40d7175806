"""``e4t tune``: a concept of a picture, of several, or one of each; what was tuned before is taken from the cache."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.hashing import sha256_json
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

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder, self._max_bytes = folder, max_bytes

    def get(self, key: str, output: Path) -> bool:
        """Put a kept concept at ``output``; False if there is none."""
        entry = self._folder / key
        if not entry.is_dir():
            return False
        os.utime(entry)
        _hardlink_or_copy(entry, output)
        return True

    def put(self, key: str, concept: Path) -> None:
        """Keep a concept folder, without a second copy where the disk can."""
        if self._max_bytes:
            _hardlink_or_copy(concept, self._folder / key)
            self._evict()

    def _evict(self) -> None:
        newest_first = sorted(self._folder.glob("[0-9a-f]*"), key=lambda kept: kept.stat().st_mtime, reverse=True)
        total = 0
        for kept in newest_first:
            total += sum(file.stat().st_size for file in kept.iterdir())
            if total > self._max_bytes:
                shutil.rmtree(kept, ignore_errors=True)


ProgressCallback = Callable[[int, int], None]
"""Called with the steps done and the steps to do."""


@dataclass(frozen=True, kw_only=True)
class TuneRequest:
    """A concept to be made, and of what."""

    images: Sequence[str]
    output: Path
    masks: Sequence[str] | None = None
    captions: Sequence[str] | None = None
    init_concept: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    """Fields of ``tune`` in place of the method's or the release's own."""

    def __post_init__(self) -> None:
        if self.output.exists():
            raise ModelError(f"{self.output} exists; give another --output or delete it")
        for path in (*self.images, *(self.masks or ())):
            open_image(path)  # before a model is loaded
        if self.init_concept:
            Concept.load(self.init_concept)

    def cache_key(self, release: Release, cache_key_extra: Sequence[Any]) -> str:
        """Digest of everything that decides the concept; ``how`` is the method and what the base is held as."""
        file_digests = [[sha256_file(Path(path)) for path in paths or ()] for paths in (self.images, self.masks)]
        init_digest = self.init_concept and Concept.load(self.init_concept).digest
        options = [self.captions, init_digest, self.settings, *cache_key_extra]
        return sha256_json([FORMAT_VERSION, release.id, release.content_digest, release.base, file_digests, options])


def split_per_image(request: TuneRequest) -> Iterator[TuneRequest]:
    """An order for each of an order's pictures: concepts in its output, called after the pictures."""
    names = [Path(image).stem for image in request.images]
    if len(set(names)) < len(names):
        raise ModelError("two pictures have the same name, and concepts are called after their pictures; rename one")
    for index, name in enumerate(names):
        yield replace(
            request,
            images=request.images[index : index + 1],
            masks=request.masks and request.masks[index : index + 1],
            captions=request.captions and request.captions[index : index + 1],
            output=request.output / name,
        )


@dataclass(frozen=True)
class TuneResult:
    """A concept that is there."""

    folder: Path
    seconds: float
    """Of tuning alone; 0 for one that was made before."""


def tune_all(
    requests: Sequence[TuneRequest],
    release: Release,
    cache_key_extra: Sequence[Any],
    load_pipeline: Callable[[], "E4TPipeline"],
    cache: ConceptCache,
    on_progress: ProgressCallback,
) -> Iterator[TuneResult]:
    """Make the concepts in turn; the pipeline is opened once, and only if one of them was never made."""
    pipe = None
    for request in requests:
        key = request.cache_key(release, cache_key_extra)
        if cache.get(key, request.output):
            yield TuneResult(request.output, 0.0)
            continue
        pipe = pipe or load_pipeline()
        start = time.monotonic()
        concept = _tune(pipe, request, on_progress)
        seconds = time.monotonic() - start
        cache.put(key, concept.save(request.output))
        yield TuneResult(request.output, seconds)


def _tune(pipe: "E4TPipeline", request: TuneRequest, on_progress: ProgressCallback) -> Concept:
    total = request.settings.get("steps", pipe.tune_config.steps)
    return pipe.tune(
        [open_image(path) for path in request.images],
        mask=[open_image(path) for path in request.masks] if request.masks else None,
        caption=request.captions,
        init_concept=Concept.load(request.init_concept) if request.init_concept else None,
        on_step=lambda step, _: on_progress(step, total),
        **request.settings,
    )


def _hardlink_or_copy(source: Path, target: Path) -> None:
    with atomic_dir_shared(target) as folder:
        for file in source.iterdir():
            try:
                os.link(file, folder / file.name)
            except OSError:  # another disk
                shutil.copyfile(file, folder / file.name)
