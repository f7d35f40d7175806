"""The releases on offer, and what is done with them: tuning with previews on the way, and painting."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from e4t import ConfigError
from encoder.concepts.concept import Concept
from encoder.config import Precision
from encoder.pipeline import E4TPipeline
from encoder.releases.release import Release

NUM_PREVIEWS = 5
"""Painted while tuning, beside the first, which is the encoder's guess."""
PREVIEW_INFERENCE_STEPS = 8
"""DDIM steps of a preview: enough to see what is learned."""


@dataclass(frozen=True, kw_only=True)
class TuneEvent:
    """Tuning after some steps."""

    step: int
    preview: Image.Image | None = None
    """If one was painted after this step."""
    concept: Concept | None = None
    """At the end."""


class TuningBackend:
    """Holds one release in memory at a time, the one that was asked for last. Not for several threads at once."""

    def __init__(
        self,
        folders: Sequence[str | Path],
        *,
        base: str | None = None,
        device: str | None = None,
        dtype: Precision | None = None,
    ) -> None:
        """Open the first release. Raises ModelError or ConfigError if it is no use, or another's index is broken."""
        self.releases: dict[str, Release] = {}
        for release in map(Release.open, folders):
            if release.id in self.releases:
                raise ConfigError(f"two of the releases are called {release.id}; give one of them")
            self.releases[release.id] = release
        self._base, self._device, self._dtype = base, device, dtype
        self._pipeline = self._load_pipeline(next(iter(self.releases)))

    def _load_pipeline(self, release: str) -> E4TPipeline:
        folder = self.releases[release].folder
        return E4TPipeline.from_pretrained(folder, base=self._base, device=self._device, dtype=self._dtype)

    def pipeline_for(self, release: str) -> E4TPipeline:
        """A release, by its name and version, opened if it is not the one in memory."""
        if self._pipeline.release != release:
            del self._pipeline  # before the other comes: two might not fit
            self._pipeline = self._load_pipeline(release)
        return self._pipeline

    def tune(
        self, release: str, image: Image.Image, steps: int, should_stop: Callable[[], bool] = lambda: False
    ) -> Iterator[TuneEvent]:
        """Tune step by step, until the last or until ``enough``; the last glance has the concept."""
        pipe = self.pipeline_for(release)
        prompt, preview_every = pipe.conditioning.config.templates[0], -(-steps // NUM_PREVIEWS)
        with pipe.tuning_session(image, steps=steps) as tuner:
            yield TuneEvent(step=0, preview=pipe(prompt, num_inference_steps=PREVIEW_INFERENCE_STEPS)[0])
            step = 0
            while step < steps and not should_stop():
                tuner.step()
                step += 1
                preview_due = step % preview_every == 0 or step == steps
                yield TuneEvent(
                    step=step,
                    preview=pipe(prompt, num_inference_steps=PREVIEW_INFERENCE_STEPS)[0] if preview_due else None,
                )
            concept = tuner.concept(pipe.release, step)
        yield TuneEvent(step=step, concept=concept)

    def generate(
        self, concept_path: Path, prompts: Sequence[str], *, variants: int, steps: int, seed: int
    ) -> Iterator[list[Image.Image]]:
        """A saved concept's pictures, prompt by prompt; the same variant of each starts from the same noise."""
        loaded = Concept.load(concept_path)
        pipe = self.pipeline_for(loaded.release)
        pipe.load_concept(loaded)
        for prompt in prompts:
            yield pipe([prompt] * variants, num_inference_steps=steps, seed=seed)
