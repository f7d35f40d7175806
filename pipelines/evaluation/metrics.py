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
from pipelines.tiny_base.attribute_classifier import (
    ATTRIBUTE_WEIGHTS_NAME,
    IDENTITY_ATTRIBUTES,
    SCENE_ATTRIBUTES,
    AttributeClassifier,
    expected_attributes,
    matching_fraction,
    parse_scene,
)

CONCEPT_SIMILARITY, RECOGNIZER_SIMILARITY = "concept", "recognised"
"""How close the edits are to the concept's picture: by CLIP, by a recogniser."""
PROMPT_SIMILARITY, ATTRIBUTE_ACCURACY = "prompt", "obeyed"
"""How close they are to what their prompts ask: by CLIP, by a reader of attributes."""


class Metric(Protocol):
    """Something that measures."""

    def compute(self, case: Case, images: Tensor) -> dict[str, float]:
        """Numbers for pictures (1 + edits, 3, S, S) in [-1, 1] of the case's prompts; none where it cannot tell."""


def build_metrics(recipe: Recipe, device: str) -> list[Metric]:
    """Those that the recipe and its base offer."""
    metrics: list[Metric] = [ClipMetric(recipe, device)]
    if recipe.evaluate.recognizer:
        metrics.append(RecognizerMetric(recipe, device))
    metrics.append(PixelMetric())
    if (Path(recipe.base.model) / ATTRIBUTE_WEIGHTS_NAME).exists():
        metrics.append(AttributeMetric(recipe))
    return metrics


class ClipMetric:
    """CLIP cosines (Radford et al., arXiv 2103.00020), as Textual Inversion and E4T report them."""

    def __init__(self, recipe: Recipe, device: str) -> None:
        local = f"{recipe.base.model}/clip"
        self._clip = ClipScorer(recipe.evaluate.clip or recipe.base.image_encoder or local, device)
        self._domain_word = recipe.conditioning.domain_word

    def compute(self, case: Case, images: Tensor) -> dict[str, float]:
        """Closeness of the picture's own prompt and of the edits to the picture, to their prompts, to the truth."""
        features = self._clip.image_features(images)
        image_features, prompt_features, reference_features = self._reference_features(case, images.shape[-1])
        numbers = {
            "likeness": float(cosine_similarity(features[:1], image_features).mean()),
            CONCEPT_SIMILARITY: float(cosine_similarity(features[1:], image_features).mean()),
            PROMPT_SIMILARITY: float(cosine_similarity(features[1:], prompt_features).mean()),
        }
        if reference_features is not None:
            numbers["truth"] = float(cosine_similarity(features[1:], reference_features).mean())
        return numbers

    @cache  # noqa: B019 - an instrument lives as long as the command
    def _reference_features(self, case: Case, size: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Features of the case's first picture, of its edits' words and of their truths."""
        prompts = [edit.replace(PLACEHOLDER, self._domain_word) for edit in case.edit_prompts]
        reference_features = (
            self._clip.image_features(preprocess_batch(case.reference_images, size)) if case.reference_images else None
        )
        return (
            self._clip.image_features(preprocess_batch(case.images[:1], size)),
            self._clip.text_features(prompts),
            reference_features,
        )


class RecognizerMetric:
    """Cosine of features that tell concepts of the domain apart: DINO, or a face recogniser's."""

    def __init__(self, recipe: Recipe, device: str) -> None:
        self._extractor = ImageFeatureExtractor(str(recipe.evaluate.recognizer), device)

    def compute(self, case: Case, images: Tensor) -> dict[str, float]:
        """Closeness of the edits to the concept's picture."""
        image_features = self._image_features(case, images.shape[-1])
        return {
            RECOGNIZER_SIMILARITY: float(
                cosine_similarity(self._extractor.image_features(images[1:]), image_features).mean()
            )
        }

    @cache  # noqa: B019 - an instrument lives as long as the command
    def _image_features(self, case: Case, size: int) -> Tensor:
        return self._extractor.image_features(preprocess_batch(case.images[:1], size))


class PixelMetric:
    """How far pixels are from those of the true edit."""

    def compute(self, case: Case, images: Tensor) -> dict[str, float]:
        """Root mean square difference, of a range from 0 to 1."""
        if not case.reference_images:
            return {}
        return {
            "pixels off": float(
                ((images[1:] - preprocess_batch(case.reference_images, images.shape[-1])) / 2).pow(2).mean().sqrt()
            )
        }


class AttributeMetric:
    """On drawn faces: what of the person is right, and what of the prompt."""

    def __init__(self, recipe: Recipe) -> None:
        self._reader = AttributeClassifier.load(recipe.base.model)

    def compute(self, case: Case, images: Tensor) -> dict[str, float]:
        """Shares of the person's attributes, and of the edits' expression, clothes and background, that are right."""
        try:
            identity = Identity.parse(case.concept)
            expected = [expected_attributes(identity, parse_scene(prompt)) for prompt in case.prompts]
        except DataError:
            return {}
        pairs = list(zip(self._reader.predict(images), expected, strict=True))
        return {
            "person": sum(matching_fraction(r, k, list(IDENTITY_ATTRIBUTES)) for r, k in pairs) / len(pairs),
            ATTRIBUTE_ACCURACY: sum(matching_fraction(r, k, list(SCENE_ATTRIBUTES)) for r, k in pairs[1:])
            / len(pairs[1:]),
        }
