"""The models behind the page: tune a concept with previews, and generate images."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from e4t_errors import ConfigError
from encoder.concepts.concept import Concept
from encoder.config import Precision
from encoder.model.sampling import seeded_generators
from encoder.pipeline import E4TPipeline
from encoder.releases.release import Release
from encoder.tuning.inputs import TuningInputs

NUM_PREVIEWS = 5
"""Number of previews during tuning, in addition to the first one, which shows the encoder's prediction."""
PREVIEW_INFERENCE_STEPS = 8
"""Denoising steps of a preview: few, but enough to see the progress."""


@dataclass(frozen=True, kw_only=True)
class TuneEvent:
    """Progress of a tuning session after ``step`` steps."""

    step: int
    preview: Image.Image | None = None
    """An image generated after this step, or None between previews."""
    concept: Concept | None = None
    """The tuned concept; set in the last event only."""


class TuningBackend:
    """Keep one release in memory, the one used last, and tune and generate with it. Not thread-safe."""

    def __init__(
        self,
        folders: Sequence[str | Path],
        *,
        base: str | None = None,
        device: str | None = None,
        dtype: Precision | None = None,
    ) -> None:
        """Read the index of every release and load the first release.

        Raises:
            ModelError: A release cannot be read.
            ConfigError: Two releases have the same name and version.
        """
        self.releases: dict[str, Release] = {}
        for release in map(Release.open, folders):
            if release.id in self.releases:
                raise ConfigError(f"two releases are called {release.id}; pass only one of them")
            self.releases[release.id] = release
        self._base, self._device, self._dtype = base, device, dtype
        self._pipeline = self._load_pipeline(next(iter(self.releases)))

    def _load_pipeline(self, release: str) -> E4TPipeline:
        folder = self.releases[release].folder
        return E4TPipeline.from_pretrained(folder, base=self._base, device=self._device, dtype=self._dtype)

    def pipeline_for(self, release: str) -> E4TPipeline:
        """Return the pipeline of a release (``name version``), loading it if another one is in memory."""
        if self._pipeline.release != release:
            del self._pipeline  # freed before the next one is loaded: both might not fit into memory
            self._pipeline = self._load_pipeline(release)
        return self._pipeline

    def tune(
        self, release: str, image: Image.Image, steps: int, should_stop: Callable[[], bool] = lambda: False
    ) -> Iterator[TuneEvent]:
        """Tune on an image and yield an event after every step; the last event holds the concept.

        ``should_stop`` is checked before every step. Closing the generator restores the release.
        """
        pipe = self.pipeline_for(release)
        prompt, preview_every = pipe.conditioning.config.templates[0], -(-steps // NUM_PREVIEWS)
        inputs, config = TuningInputs(images=[image]), pipe.tuning_config(steps=steps)
        with pipe.tuning_session(inputs, config=config) as tuner:
            yield TuneEvent(step=0, preview=_preview(pipe, prompt))
            step = 0
            while step < steps and not should_stop():
                tuner.step()
                step += 1
                preview_due = step % preview_every == 0 or step == steps
                yield TuneEvent(
                    step=step,
                    preview=_preview(pipe, prompt) if preview_due else None,
                )
            concept = tuner.concept(pipe.release, step)
        yield TuneEvent(step=step, concept=concept)

    def generate(
        self, concept_path: Path, prompts: Sequence[str], *, variants: int, steps: int, seed: int
    ) -> Iterator[list[Image.Image]]:
        """Yield the images of each prompt. Variant ``i`` of every prompt starts from the same noise (seed + i)."""
        loaded = Concept.load(concept_path)
        pipe = self.pipeline_for(loaded.release)
        pipe.load_concept(loaded)
        for prompt in prompts:
            yield pipe([prompt] * variants, num_inference_steps=steps, generator=seeded_generators(seed, variants))


def _preview(pipe: E4TPipeline, prompt: str) -> Image.Image:
    return pipe(prompt, num_inference_steps=PREVIEW_INFERENCE_STEPS, generator=seeded_generators(0, 1))[0]
