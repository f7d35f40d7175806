"""Metrics of generated images. Each metric returns named scores for the images of one concept."""

from functools import cache
from pathlib import Path
from typing import Protocol

from torch import Tensor

from data_prep.errors import DataError
from data_prep.synthetic.faces import Identity
from encoder.images import preprocess_batch
from encoder.metrics import ClipScorer, ImageFeatureExtractor, cosine_similarity
from encoder.placeholder import replace_placeholder
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

IDENTITY_SIMILARITY, IDENTITY_ACCURACY = "identity_similarity", "identity_accuracy"
"""CLIP similarity of the input to the image for its own caption; fraction of correct identity attributes."""
CONCEPT_SIMILARITY, RECOGNIZER_SIMILARITY = "concept_similarity", "recognizer_similarity"
"""Similarity of the edits to the input image, by CLIP and by a recognizer."""
PROMPT_SIMILARITY, ATTRIBUTE_ACCURACY = "prompt_similarity", "attribute_accuracy"
"""Similarity of the edits to their prompts (CLIP); share of correct scene attributes in the edits."""
REFERENCE_SIMILARITY, RMSE = "reference_similarity", "rmse"
"""Similarity of the edits to their reference images (CLIP); root mean square error to them, in [0, 1]."""


class Metric(Protocol):
    """A metric of generated images."""

    def compute(self, case: Case, images: Tensor) -> dict[str, float]:
        """Return scores of ``images``, shape (1 + edits, 3, S, S) in [-1, 1], one per prompt of the case.

        The result is empty if the metric does not apply to the case.
        """


def build_metrics(recipe: Recipe, device: str) -> list[Metric]:
    """Return the metrics that the recipe asks for and its base model supports."""
    metrics: list[Metric] = [ClipMetric(recipe, device)]
    if recipe.evaluate.recognizer:
        metrics.append(RecognizerMetric(recipe, device))
    metrics.append(PixelMetric())
    if (Path(recipe.base.model) / ATTRIBUTE_WEIGHTS_NAME).exists():
        metrics.append(AttributeMetric(recipe))
    return metrics


class ClipMetric:
    """CLIP cosine similarities (Radford et al., arXiv 2103.00020), as reported by Textual Inversion and E4T."""

    def __init__(self, recipe: Recipe, device: str) -> None:
        local = f"{recipe.base.model}/clip"
        self._clip = ClipScorer(recipe.evaluate.clip or recipe.base.image_encoder or local, device)
        self._domain_word = recipe.conditioning.domain_word

    def compute(self, case: Case, images: Tensor) -> dict[str, float]:
        """Compare the images with the input image, their prompts and, if there are any, the reference images."""
        features = self._clip.image_features(images)
        image_features, prompt_features, reference_features = self._reference_features(case, images.shape[-1])
        scores = {
            IDENTITY_SIMILARITY: float(cosine_similarity(features[:1], image_features).mean()),
            CONCEPT_SIMILARITY: float(cosine_similarity(features[1:], image_features).mean()),
            PROMPT_SIMILARITY: float(cosine_similarity(features[1:], prompt_features).mean()),
        }
        if reference_features is not None:
            scores[REFERENCE_SIMILARITY] = float(cosine_similarity(features[1:], reference_features).mean())
        return scores

    @cache  # noqa: B019 - a metric lives as long as the command
    def _reference_features(self, case: Case, size: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return features of the input image, of the edit prompts and of the reference images."""
        prompts = [replace_placeholder(edit, self._domain_word) for edit in case.edit_prompts]
        reference_features = (
            self._clip.image_features(preprocess_batch(case.reference_images, size)) if case.reference_images else None
        )
        return (
            self._clip.image_features(preprocess_batch(case.images[:1], size)),
            self._clip.text_features(prompts),
            reference_features,
        )


class RecognizerMetric:
    """Cosine similarity of features that distinguish concepts of the domain, such as DINO's or a face recognizer's."""

    def __init__(self, recipe: Recipe, device: str) -> None:
        self._extractor = ImageFeatureExtractor(str(recipe.evaluate.recognizer), device)

    def compute(self, case: Case, images: Tensor) -> dict[str, float]:
        """Compare the edits with the input image."""
        features = self._extractor.image_features(images[1:])
        similarity = cosine_similarity(features, self._image_features(case, images.shape[-1]))
        return {RECOGNIZER_SIMILARITY: float(similarity.mean())}

    @cache  # noqa: B019 - a metric lives as long as the command
    def _image_features(self, case: Case, size: int) -> Tensor:
        return self._extractor.image_features(preprocess_batch(case.images[:1], size))


class PixelMetric:
    """Root mean square error between the edits and their reference images."""

    def compute(self, case: Case, images: Tensor) -> dict[str, float]:
        """Compute the error over pixel values scaled to [0, 1]."""
        if not case.reference_images:
            return {}
        references = preprocess_batch(case.reference_images, images.shape[-1])
        return {RMSE: float(((images[1:] - references) / 2).pow(2).mean().sqrt())}


class AttributeMetric:
    """Accuracy of identity and scene attributes of drawn faces, as read by the classifier of the tiny base model."""

    def __init__(self, recipe: Recipe) -> None:
        self._classifier = AttributeClassifier.load(recipe.base.model)

    def compute(self, case: Case, images: Tensor) -> dict[str, float]:
        """Compute the share of correct identity attributes, and of correct expression, clothes and background."""
        try:
            identity = Identity.parse(case.concept)
            expected = [expected_attributes(identity, parse_scene(prompt)) for prompt in case.prompts]
        except DataError:
            return {}
        pairs = list(zip(self._classifier.predict(images), expected, strict=True))
        identity_matches = [matching_fraction(got, want, list(IDENTITY_ATTRIBUTES)) for got, want in pairs]
        scene_matches = [matching_fraction(got, want, list(SCENE_ATTRIBUTES)) for got, want in pairs[1:]]
        return {
            IDENTITY_ACCURACY: sum(identity_matches) / len(identity_matches),
            ATTRIBUTE_ACCURACY: sum(scene_matches) / len(scene_matches),
        }
