"""Presets of other methods, on a tiny base model of every family."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from e4t_errors import ConfigError
from encoder.concepts.concept import Concept
from encoder.concepts.concept_tokens import LearnedToken, RareToken
from encoder.config import BackboneConfig, ConditioningConfig, SampleConfig, TuneConfig
from encoder.errors import ModelError
from encoder.images import to_images
from encoder.model.losses import Losses
from encoder.model.sampling import seeded_generators
from encoder.pipeline import E4TPipeline
from encoder.tuning.presets import METHODS, MethodName
from encoder.tuning.prior import Prior
from tests.bases import UNETS

PROMPT = "a portrait of a *s in a red shirt"
QUICK = {"steps": 2, "batch_size": 2}


@pytest.fixture(params=list(UNETS))
def pipe(request: pytest.FixtureRequest, family_folders: Path) -> E4TPipeline:
    """Base model without a pre-trained domain encoder."""
    return E4TPipeline.from_base(
        BackboneConfig(model=str(family_folders / request.param)),
        ConditioningConfig(domain_word="person", templates=("a portrait of a *s",)),
        sample_config=SampleConfig(num_inference_steps=2),
    )


@pytest.fixture
def image(pixels: Tensor) -> Image.Image:
    return to_images(pixels[:1])[0]


def tuned_by(
    pipe: E4TPipeline, method: MethodName, image: Image.Image | list[Image.Image], **settings: object
) -> Concept:
    """Tune with a method's preset for two steps, with few class images."""
    quick = QUICK | {"num_class_images": min(METHODS[method].num_class_images, 3)}
    return pipe.tune(image, method=method, **quick | settings)


def state(pipe: E4TPipeline) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in pipe.backbone.state_dict().items()}


def test_textual_inversion_learns_an_embedding_and_nothing_else(pipe: E4TPipeline, image: Image.Image) -> None:
    before, start = state(pipe), pipe.conditioning.domain_embedding()
    concept = tuned_by(pipe, "textual-inversion", image)
    assert isinstance(concept.token, LearnedToken)
    assert not concept.weight_deltas
    assert not torch.equal(concept.token.embedding, start)
    assert all(torch.equal(tensor, before[name]) for name, tensor in pipe.backbone.state_dict().items())


def test_a_learned_token_is_initialized_with_the_domain_word(pipe: E4TPipeline, image: Image.Image) -> None:
    concept = tuned_by(pipe, "textual-inversion", image, steps=0)
    assert torch.equal(concept.token.embedding, pipe.conditioning.domain_embedding())
    sampled = pipe.sample([PROMPT], pipe.sample_config, seeded_generators(1, 1))
    pipe.unload_concept()
    assert torch.equal(
        pipe.sample([PROMPT.replace("*s", "person")], pipe.sample_config, seeded_generators(1, 1)), sampled
    )


def test_dreambooth_trains_the_unet_only_and_uses_the_rare_token(pipe: E4TPipeline, image: Image.Image) -> None:
    concept = tuned_by(pipe, "dreambooth", image)
    assert (concept.token, concept.weight_deltas.keys()) == (RareToken("sks"), {"unet"})
    expected = pipe.sample([PROMPT.replace("*s", "sks person")], pipe.sample_config, seeded_generators(1, 1))
    assert torch.equal(pipe.sample([PROMPT], pipe.sample_config, seeded_generators(1, 1)), expected)


def test_dreambooth_can_train_the_text_encoders_too(pipe: E4TPipeline, image: Image.Image) -> None:
    texts = {"text_encoder", "text_encoder_2"} if len(pipe.backbone.text_encoders.encoders) == 2 else {"text_encoder"}
    assert tuned_by(pipe, "dreambooth", image, train_text_encoder=True).weight_deltas.keys() == {"unet"} | texts


def test_pivotal_tuning_keeps_the_embedding_of_its_initial_concept(pipe: E4TPipeline, image: Image.Image) -> None:
    pivot = tuned_by(pipe, "textual-inversion", image)
    concept = tuned_by(pipe, "pivotal", image, init_concept=pivot)
    assert torch.equal(concept.token.embedding, pivot.token.embedding)
    assert concept.weight_deltas.keys() == {"unet"}


@pytest.mark.parametrize("method", METHODS)
def test_a_concept_of_every_method_can_be_saved_loaded_and_unloaded(
    pipe: E4TPipeline, image: Image.Image, tmp_path: Path, method: MethodName
) -> None:
    before = state(pipe)
    tuned_by(pipe, method, [image, image]).save(tmp_path / "concept")
    sampled = pipe.sample([PROMPT], pipe.sample_config, seeded_generators(1, 1))
    pipe.unload_concept()
    assert all(torch.equal(tensor, before[name]) for name, tensor in pipe.backbone.state_dict().items())
    pipe.load_concept(Concept.load(tmp_path / "concept"))
    assert torch.equal(pipe.sample([PROMPT], pipe.sample_config, seeded_generators(1, 1)), sampled)


@pytest.mark.parametrize("pipe", ["sd1"], indirect=True)
class TestPriorPreservation:
    """On one family, because the others make no difference here."""

    def losses(self, pipe: E4TPipeline, image: Image.Image, **settings: object) -> list[Losses]:
        seen: list[Losses] = []
        tuned_by(pipe, "dreambooth", image, on_step=lambda _, losses: seen.append(losses), **settings)
        return seen

    def test_the_prior_loss_is_added_to_the_loss_by_its_weight(self, pipe: E4TPipeline, image: Image.Image) -> None:
        half, whole = (self.losses(pipe, image, prior_loss_weight=weight)[0] for weight in (0.5, 1.0))
        assert float(half.denoising) == float(whole.denoising)
        prior = whole.total - whole.denoising
        torch.testing.assert_close(half.total - half.denoising, prior / 2)
        assert prior > 0

    def test_the_prior_loss_does_not_depend_on_the_micro_batch_size(
        self, pipe: E4TPipeline, image: Image.Image
    ) -> None:
        one, two = (self.losses(pipe, image, micro_batch_size=size)[0] for size in (1, 2))
        torch.testing.assert_close(one.total, two.total)

    def test_given_class_images_are_used(self, pipe: E4TPipeline, image: Image.Image) -> None:
        class_images = pipe.generate_class_images(3)
        assert self.losses(pipe, image, class_images=class_images)[0].total == self.losses(pipe, image)[0].total

    def test_the_domain_word_keeps_its_meaning_better_with_the_prior_loss(
        self, pipe: E4TPipeline, image: Image.Image
    ) -> None:
        """Far too large steps damage the domain word less with the prior loss than without it."""
        class_images = pipe.generate_class_images(3)
        pixels = torch.cat([pipe.preprocess(image) for image in class_images])

        def loss_after(weight: float) -> float:
            tuned_by(
                pipe,
                "dreambooth",
                image,
                class_images=class_images,
                prior_loss_weight=weight,
                learning_rate=1e-3,
                steps=20,
            )
            with torch.no_grad():
                return float(Prior(pipe.backbone, pipe.conditioning, pixels, METHODS["dreambooth"]).loss(16))

        assert loss_after(1.0) < loss_after(0.0)


def test_an_initial_concept_with_weight_deltas_is_refused(pipe: E4TPipeline, image: Image.Image) -> None:
    whole = tuned_by(pipe, "dreambooth", image)
    with pytest.raises(ModelError, match="must be a learned token"):
        tuned_by(pipe, "pivotal", image, init_concept=whole)


def test_settings_that_train_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="nothing to tune"):
        TuneConfig(token_type="rare_token", trainable="none")
