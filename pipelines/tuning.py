"""``e4t tune``: make concepts from image files, and take concepts that were made before from a cache."""

import hashlib
import io
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from data_prep.config_dict import SHA256_PATTERN, sha256_json
from data_prep.storage.atomic import atomic_dir_shared
from encoder.concepts.concept import FORMAT_VERSION, Concept
from encoder.errors import ModelError
from encoder.images import open_image
from encoder.releases.release import Release
from encoder.tuning.presets import METHODS, MethodName

if TYPE_CHECKING:
    from encoder.pipeline import E4TPipeline

ProgressCallback = Callable[[int, int], None]
"""Called with the number of steps done and the total number of steps."""
_CACHE_KEY = re.compile(SHA256_PATTERN)
"""Names of cached concepts. Other folders are not the cache's and are never removed."""


@dataclass(frozen=True)
class ImageFile:
    """An image file that was read, hashed and decoded once."""

    path: Path
    sha256: str
    """Digest of the file's bytes."""
    image: Image.Image
    """Decoded image, RGB and upright."""

    @classmethod
    def read(cls, path: str | Path) -> "ImageFile":
        """Read a file. Raises ModelError with one line if it is missing or not an image."""
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise ModelError(f"{path} cannot be read ({error.strerror}); give a PNG, JPEG or WebP file") from error
        return cls(Path(path), hashlib.sha256(data).hexdigest(), open_image(io.BytesIO(data), str(path)))


@dataclass(frozen=True, kw_only=True)
class TuneRequest:
    """A concept to make, from which images, and how."""

    images: Sequence[ImageFile]
    """Images of the concept."""
    output: Path
    """Folder of the concept, which must not exist."""
    masks: Sequence[ImageFile] | None = None
    """One mask per image, white where the concept is."""
    captions: Sequence[str] | None = None
    """One prompt per image that describes everything but the concept, with ``*s`` for the concept."""
    init_concept: Concept | None = None
    """Concept whose learned token embedding is the starting point."""
    method: MethodName = "e4t"
    """Preset of the tuning settings; ``e4t`` uses those of the release."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Fields of ``TuneConfig`` that replace those of the method."""

    def __post_init__(self) -> None:
        if self.output.exists():
            raise ModelError(f"{self.output} exists; give another --output or delete it")
        replace(METHODS[self.method], **self.settings)  # raises ConfigError for invalid values before a model is loaded

    @classmethod
    def from_files(
        cls,
        *,
        images: Sequence[str],
        output: Path,
        masks: Sequence[str] | None = None,
        captions: Sequence[str] | None = None,
        init_concept: str | None = None,
        method: MethodName = "e4t",
        settings: dict[str, Any] | None = None,
    ) -> "TuneRequest":
        """Read the images, masks and initial concept of a request, each file once.

        Raises ModelError with one line if a file cannot be read or the output exists, and ConfigError for invalid
        settings.
        """
        return cls(
            images=[ImageFile.read(path) for path in images],
            output=output,
            masks=[ImageFile.read(path) for path in masks] if masks else None,
            captions=captions,
            init_concept=Concept.load(init_concept) if init_concept else None,
            method=method,
            settings=settings or {},
        )

    def cache_key(self, release: Release, cache_key_extra: Sequence[Any] = ()) -> str:
        """Return a digest of everything that decides the concept.

        ``cache_key_extra`` is what else the caller loads the pipeline with: the base model and its precision.
        """
        image_digests = [[file.sha256 for file in files or ()] for files in (self.images, self.masks)]
        init_digest = self.init_concept and self.init_concept.digest
        options = [self.captions, init_digest, self.settings, self.method, *cache_key_extra]
        return sha256_json([FORMAT_VERSION, release.id, release.content_digest, release.base, image_digests, options])


def split_per_image(request: TuneRequest) -> Iterator[TuneRequest]:
    """Split a request into one per image; the concepts lie in its output folder, named after the images.

    Raises ModelError if two images have the same name.
    """
    names = [file.path.stem for file in request.images]
    if len(set(names)) < len(names):
        raise ModelError("two images have the same name, but concepts are named after their images; rename one")
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
    """A concept that was made or taken from the cache."""

    folder: Path
    seconds: float
    """Duration of the tuning alone; 0 for a cached concept."""


def tune_all(
    requests: Sequence[TuneRequest],
    release: Release,
    load_pipeline: Callable[[], "E4TPipeline"],
    cache: "ConceptCache",
    on_progress: ProgressCallback,
    cache_key_extra: Sequence[Any] = (),
) -> Iterator[TuneResult]:
    """Make the concepts one after the other. The pipeline is loaded once, when the first is not in the cache."""
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
    total = pipe.tuning_config(request.method, **request.settings).steps
    return pipe.tune(
        [file.image for file in request.images],
        mask=[file.image for file in request.masks] if request.masks else None,
        caption=request.captions,
        init_concept=request.init_concept,
        method=request.method,
        on_step=lambda step, _: on_progress(step, total),
        **request.settings,
    )


class ConceptCache:
    """A folder of concept folders, bounded in bytes: the least recently used are deleted first."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """Use ``folder``, which need not exist; with ``max_bytes`` 0, no further concepts are kept."""
        self._folder, self._max_bytes = folder, max_bytes

    def get(self, key: str, output: Path) -> bool:
        """Copy a cached concept to ``output``; return False if there is none."""
        entry = self._folder / key
        if not entry.is_dir():
            return False
        os.utime(entry)
        _hardlink_or_copy(entry, output)
        return True

    def put(self, key: str, concept: Path) -> None:
        """Add a concept folder, as hard links where the file system can."""
        if self._max_bytes:
            _hardlink_or_copy(concept, self._folder / key)
            self._evict()

    def _evict(self) -> None:
        cached = [entry for entry in self._folder.iterdir() if _CACHE_KEY.fullmatch(entry.name)]
        newest_first = sorted(cached, key=lambda entry: entry.stat().st_mtime, reverse=True)
        total = 0
        for entry in newest_first:
            total += sum(file.stat().st_size for file in entry.iterdir())
            if total > self._max_bytes:
                shutil.rmtree(entry, ignore_errors=True)


def _hardlink_or_copy(source: Path, target: Path) -> None:
    with atomic_dir_shared(target) as folder:
        for file in source.iterdir():
            try:
                os.link(file, folder / file.name)
            except OSError:  # another disk
                shutil.copyfile(file, folder / file.name)
