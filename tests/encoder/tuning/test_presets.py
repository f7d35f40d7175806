"""The rival methods on the tuning loop, on a tiny base of every family."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from e4t import ConfigError
from encoder.concepts.concept import Concept
from encoder.concepts.concept_tokens import LearnedToken, RareToken
from encoder.config import BackboneConfig, ConditioningConfig, SampleConfig, TuneConfig
from encoder.errors import ModelError
from encoder.images import to_images
from encoder.model.losses import Losses
from encoder.model.sampling import seeded_generators
from encoder.pipeline import E4TPipeline
from encoder.tuning.presets import METHODS
from encoder.tuning.prior import Prior
from tests.bases import UNETS

PROMPT = "a portrait of a *s in a red shirt"
QUICK = {"steps": 2, "batch_size": 2}


@pytest.fixture(params=list(UNETS))
def pipe(request: pytest.FixtureRequest, family_folders: Path) -> E4TPipeline:
    """A base that nothing was pre-trained on."""
    return E4TPipeline.from_base(
        BackboneConfig(model=str(family_folders / request.param)),
        ConditioningConfig(domain_word="person", templates=("a portrait of a *s",)),
        sample_config=SampleConfig(num_inference_steps=2),
    )


@pytest.fixture
def image(pixels: Tensor) -> Image.Image:
    return to_images(pixels[:1])[0]


def tuned_by(pipe: E4TPipeline, method: str, image: Image.Image | list[Image.Image], **settings: object) -> Concept:
    """A concept by a method of two steps, with few pictures of the prior."""
    config = replace(METHODS[method], **QUICK)
    pipe.tune_config = replace(config, num_class_images=min(config.num_class_images, 3))
    return pipe.tune(image, **settings)


def state(pipe: E4TPipeline) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in pipe.backbone.state_dict().items()}


def test_textual_inversion_learns_an_embedding_and_nothing_else(pipe: E4TPipeline, image: Image.Image) -> None:
    before, start = state(pipe), pipe.conditioning.domain_embedding()
    concept = tuned_by(pipe, "textual-inversion", image)
    assert isinstance(concept.token, LearnedToken)
    assert not concept.weight_deltas
    assert not torch.equal(concept.token.embedding, start)
    assert all(torch.equal(tensor, before[name]) for name, tensor in pipe.backbone.state_dict().items())


def test_a_learned_word_starts_as_the_domain_word(pipe: E4TPipeline, image: Image.Image) -> None:
    concept = tuned_by(pipe, "textual-inversion", image, steps=0)
    assert torch.equal(concept.token.embedding, pipe.conditioning.domain_embedding())
    painted = pipe.sample([PROMPT], pipe.sample_config, seeded_generators(1, 1))
    pipe.unload_concept()
    assert torch.equal(
        pipe.sample([PROMPT.replace("*s", "person")], pipe.sample_config, seeded_generators(1, 1)), painted
    )


def test_dreambooth_changes_the_unet_alone_and_speaks_of_the_identifier(pipe: E4TPipeline, image: Image.Image) -> None:
    concept = tuned_by(pipe, "dreambooth", image)
    assert (concept.token, concept.weight_deltas.keys()) == (RareToken("sks"), {"unet"})
    spoken = pipe.sample([PROMPT.replace("*s", "sks person")], pipe.sample_config, seeded_generators(1, 1))
    assert torch.equal(pipe.sample([PROMPT], pipe.sample_config, seeded_generators(1, 1)), spoken)


def test_dreambooth_may_tune_the_text_encoders_too(pipe: E4TPipeline, image: Image.Image) -> None:
    texts = {"text_encoder", "text_encoder_2"} if len(pipe.backbone.text_encoders.encoders) == 2 else {"text_encoder"}
    assert tuned_by(pipe, "dreambooth", image, train_text_encoder=True).weight_deltas.keys() == {"unet"} | texts


def test_pivotal_tuning_keeps_the_word_that_it_starts_from(pipe: E4TPipeline, image: Image.Image) -> None:
    pivot = tuned_by(pipe, "textual-inversion", image)
    concept = tuned_by(pipe, "pivotal", image, init_concept=pivot)
    assert torch.equal(concept.token.embedding, pivot.token.embedding)
    assert concept.weight_deltas.keys() == {"unet"}


@pytest.mark.parametrize("method", METHODS)
def test_a_concept_is_saved_loaded_and_unloaded_alike(
    pipe: E4TPipeline, image: Image.Image, tmp_path: Path, method: str
) -> None:
    before = state(pipe)
    tuned_by(pipe, method, [image, image]).save(tmp_path / "concept")
    painted = pipe.sample([PROMPT], pipe.sample_config, seeded_generators(1, 1))
    pipe.unload_concept()
    assert all(torch.equal(tensor, before[name]) for name, tensor in pipe.backbone.state_dict().items())
    pipe.load_concept(Concept.load(tmp_path / "concept"))
    assert torch.equal(pipe.sample([PROMPT], pipe.sample_config, seeded_generators(1, 1)), painted)


@pytest.mark.parametrize("pipe", ["sd1"], indirect=True)
class TestThePrior:
    """Prior preservation, where the family makes no difference."""

    def losses(self, pipe: E4TPipeline, image: Image.Image, **settings: object) -> list[Losses]:
        seen: list[Losses] = []
        tuned_by(pipe, "dreambooth", image, on_step=lambda _, losses: seen.append(losses), **settings)
        return seen

    def test_is_added_to_the_loss_by_its_weight(self, pipe: E4TPipeline, image: Image.Image) -> None:
        half, whole = (self.losses(pipe, image, prior_loss_weight=weight)[0] for weight in (0.5, 1.0))
        assert float(half.denoising) == float(whole.denoising)
        prior = whole.total - whole.denoising
        torch.testing.assert_close(half.total - half.denoising, prior / 2)
        assert prior > 0

    def test_does_not_depend_on_the_micro_batches(self, pipe: E4TPipeline, image: Image.Image) -> None:
        one, two = (self.losses(pipe, image, micro_batch_size=size)[0] for size in (1, 2))
        torch.testing.assert_close(one.total, two.total)

    def test_takes_pictures_that_are_given(self, pipe: E4TPipeline, image: Image.Image) -> None:
        made = pipe.generate_class_images(3)
        assert self.losses(pipe, image, class_images=made)[0].total == self.losses(pipe, image)[0].total

    def test_keeps_what_the_base_makes(self, pipe: E4TPipeline, image: Image.Image) -> None:
        """After steps that are far too large the domain word means what it did, more than without the prior."""
        made = pipe.generate_class_images(3)
        pixels = torch.cat([pipe.preprocess(picture) for picture in made])

        def loss_after(weight: float) -> float:
            tuned_by(
                pipe, "dreambooth", image, class_images=made, prior_loss_weight=weight, learning_rate=1e-3, steps=20
            )
            with torch.no_grad():
                return float(Prior(pipe.backbone, pipe.conditioning, pixels, pipe.tune_config).loss(16))

        assert loss_after(1.0) < loss_after(0.0)


def test_tuning_starts_from_a_learned_word_only(pipe: E4TPipeline, image: Image.Image) -> None:
    whole = tuned_by(pipe, "dreambooth", image)
    with pytest.raises(ModelError, match="learned word"):
        tuned_by(pipe, "pivotal", image, init_concept=whole)


def test_there_must_be_something_to_tune() -> None:
    with pytest.raises(ConfigError, match="nothing to tune"):
        TuneConfig(token_type="rare_token", trainable="none")
