"""Noise, generators and step callbacks mean the same as in diffusers' pipelines."""

import pytest
import torch
from torch import Tensor

from encoder.backbone.backbone import Backbone
from encoder.config import SampleConfig
from encoder.model.conditioning import Conditioning
from encoder.model.domain_encoder import DomainEncoder
from encoder.model.sampling import initial_noise, seeded_generators
from encoder.pipeline import E4TPipeline

SHAPE, PROMPT = (4, 8, 8), "a portrait of a person"


@pytest.fixture
def pipe(backbone: Backbone, encoder: DomainEncoder, conditioning: Conditioning) -> E4TPipeline:
    return E4TPipeline(
        backbone, encoder, conditioning, resolution=32, sample_config=SampleConfig(num_inference_steps=2)
    )


def test_each_seeded_generator_belongs_to_one_image() -> None:
    together = initial_noise(SHAPE, 3, seeded_generators(5, 3), "cpu")
    for index in range(3):
        assert torch.equal(together[index], torch.randn(SHAPE, generator=torch.Generator().manual_seed(5 + index)))


def test_one_generator_draws_for_the_whole_batch() -> None:
    expected = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(5))
    assert torch.equal(initial_noise(SHAPE, 3, torch.Generator().manual_seed(5), "cpu"), expected)


def test_without_a_generator_the_global_one_is_used() -> None:
    torch.manual_seed(7)
    first, second = (initial_noise(SHAPE, 1, None, "cpu") for _ in range(2))
    torch.manual_seed(7)
    assert torch.equal(initial_noise(SHAPE, 1, None, "cpu"), first)
    assert not torch.equal(first, second)


def test_a_list_of_generators_must_hold_one_per_image() -> None:
    with pytest.raises(ValueError, match="one per image"):
        initial_noise(SHAPE, 3, seeded_generators(0, 2), "cpu")


def test_the_callback_sees_every_step_and_does_not_change_the_image(pipe: E4TPipeline) -> None:
    calls: list[tuple[int, int]] = []

    def callback(given: E4TPipeline, index: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        assert given is pipe
        assert tensors["latents"].shape == (1, *pipe.backbone.latent_shape(32))
        calls.append((index, int(timestep)))
        return {}

    watched = pipe(PROMPT, generator=seeded_generators(0, 1), callback_on_step_end=callback)
    assert calls == list(enumerate(pipe.scheduler.timesteps.tolist()))
    assert watched[0].tobytes() == pipe(PROMPT, generator=seeded_generators(0, 1))[0].tobytes()


def test_latents_that_the_callback_returns_are_used(pipe: E4TPipeline) -> None:
    latents = torch.zeros(1, *pipe.backbone.latent_shape(32))
    sampled = pipe.sample([PROMPT], pipe.sample_config, seeded_generators(0, 1), lambda *_: {"latents": latents})
    assert torch.equal(sampled, latents)
