"""What measures pictures: each instrument gives named numbers for what a system made of a concept."""

from functools import cache
from pathlib import Path
from typing import Protocol

from torch import Tensor

from data_prep.errors import DataError
from data_prep.synthetic.faces import Identity
from encoder.config import PLACEHOLDER
from encoder.images import preprocess_batch
from encoder.metrics import ClipScorer, ImageFeatureExtractor, cosine_similarity
from pipelines.config.recipe import Recipe
from pipelines.evaluation.cases import Case
from pipelines.tiny_base.attribute_classifier import ATTRIBUTE_WEIGHTS_NAME, IDENTITY_ATTRIBUTES, SCENE_ATTRIBUTES, AttributeClassifier, matching_fraction, parse_scene, expected_attributes

CONCEPT, RECOGNISED = "concept", "recognised"
"""How close the edits are to the concept's picture: by CLIP, by a recogniser."""
PROMPT, OBEYED = "prompt", "obeyed"
"""How close they are to what their prompts ask: by CLIP, by a reader of attributes."""


class Instrument(Protocol):
    """Something that measures."""

    def measure(self, case: Case, made: Tensor) -> dict[str, float]:
        """Numbers for pictures (1 + edits, 3, S, S) in [-1, 1] of the case's prompts; none where it cannot tell."""


def instruments(recipe: Recipe, device: str) -> list[Instrument]:
    """Those that the recipe and its base offer."""
    chosen: list[Instrument] = [ClipInstrument(recipe, device)]
    if recipe.evaluate.recogniser:
        chosen.append(RecogniserInstrument(recipe, device))
    chosen.append(PixelInstrument())
    if (Path(recipe.base.model) / ATTRIBUTE_WEIGHTS_NAME).exists():
        chosen.append(AttributeInstrument(recipe))
    return chosen


class ClipInstrument:
    """CLIP cosines (Radford et al., arXiv 2103.00020), as Textual Inversion and E4T report them."""

    def __init__(self, recipe: Recipe, device: str) -> None:
        local = f"{recipe.base.model}/clip"
        self._clip = ClipScorer(recipe.evaluate.clip or recipe.base.image_encoder or local, device)
        self._word = recipe.conditioning.domain_word

    def measure(self, case: Case, made: Tensor) -> dict[str, float]:
        """Closeness of the picture's own prompt and of the edits to the picture, to their prompts, to the truth."""
        features = self._clip.image_features(made)
        picture, asked, truths = self._known(case, made.shape[-1])
        numbers = {
            "likeness": float(cosine_similarity(features[:1], picture).mean()),
            CONCEPT: float(cosine_similarity(features[1:], picture).mean()),
            PROMPT: float(cosine_similarity(features[1:], asked).mean()),
        }
        if truths is not None:
            numbers["truth"] = float(cosine_similarity(features[1:], truths).mean())
        return numbers

    @cache  # noqa: B019 - an instrument lives as long as the command
    def _known(self, case: Case, size: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Features of the case's first picture, of its edits' words and of their truths."""
        words = [edit.replace(PLACEHOLDER, self._word) for edit in case.edits]
        truths = self._clip.image_features(preprocess_batch(case.truths, size)) if case.truths else None
        return self._clip.image_features(preprocess_batch(case.pictures[:1], size)), self._clip.text_features(words), truths


class RecogniserInstrument:
    """Cosine of features that tell concepts of the domain apart: DINO, or a face recogniser's."""

    def __init__(self, recipe: Recipe, device: str) -> None:
        self._recogniser = ImageFeatureExtractor(str(recipe.evaluate.recogniser), device)

    def measure(self, case: Case, made: Tensor) -> dict[str, float]:
        """Closeness of the edits to the concept's picture."""
        picture = self._known(case, made.shape[-1])
        return {RECOGNISED: float(cosine_similarity(self._recogniser.image_features(made[1:]), picture).mean())}

    @cache  # noqa: B019 - an instrument lives as long as the command
    def _known(self, case: Case, size: int) -> Tensor:
        return self._recogniser.image_features(preprocess_batch(case.pictures[:1], size))


class PixelInstrument:
    """How far pixels are from those of the true edit."""

    def measure(self, case: Case, made: Tensor) -> dict[str, float]:
        """Root mean square difference, of a range from 0 to 1."""
        if not case.truths:
            return {}
        return {"pixels off": float(((made[1:] - preprocess_batch(case.truths, made.shape[-1])) / 2).pow(2).mean().sqrt())}


class AttributeInstrument:
    """On drawn faces: what of the person is right, and what of the prompt."""

    def __init__(self, recipe: Recipe) -> None:
        self._reader = AttributeClassifier.load(recipe.base.model)

    def measure(self, case: Case, made: Tensor) -> dict[str, float]:
        """Shares of the person's attributes, and of the edits' expression, clothes and background, that are right."""
        try:
            person = Identity.parse(case.concept)
            known = [expected_attributes(person, parse_scene(prompt)) for prompt in case.prompts]
        except DataError:
            return {}
        read = list(zip(self._reader.predict(made), known, strict=True))
        return {
            "person": sum(matching_fraction(r, k, list(IDENTITY_ATTRIBUTES)) for r, k in read) / len(read),
            OBEYED: sum(matching_fraction(r, k, list(SCENE_ATTRIBUTES)) for r, k in read[1:]) / len(read[1:]),
        }
