"""Test the effect of pre-training in the release in models/faces."""

import random
from pathlib import Path

import pytest
import torch
from PIL import Image

from data_prep.config import SplitFractions
from data_prep.prepare.splits import split_of
from data_prep.synthetic.faces import Identity, Scene, render
from encoder.model.features import class_tokens
from encoder.model.losses import NoiseSample, e4t_loss
from encoder.pipeline import E4TPipeline
from encoder.tuning.inputs import TuningInputs

RELEASE = Path(__file__).parents[3] / "models" / "faces"
DRAWS = 32


def held_out_people(count: int) -> list[tuple[Image.Image, str]]:
    """Draw people of the test split with their captions; neither base model nor release was trained on them."""
    rng, people = random.Random(3), list[tuple[Image.Image, str]]()
    while len(people) < count:
        person, scene = Identity.random(rng), Scene.random(rng)
        if split_of(person.name, SplitFractions()) == "test":
            people.append((render(person, scene), scene.caption("a {expression} *s")))
    return people


@torch.no_grad()
def loss(pipe: E4TPipeline, image: Image.Image, caption: str) -> float:
    """Compute the denoising loss of an image at fixed noise and timesteps."""
    pixels = pipe.preprocess(image)
    noise = NoiseSample.from_seeds(range(DRAWS), pipe.backbone.latent_shape(64), 1000)
    losses = e4t_loss(
        pipe.backbone,
        pipe.domain_encoder,
        pipe.conditioning,
        latents=pipe.backbone.posterior(pixels).mean.expand(DRAWS, -1, -1, -1),
        class_tokens=class_tokens(pipe.backbone, pixels).expand(DRAWS, -1, -1),
        prompts=pipe.conditioning.tokenize([caption] * DRAWS),
        noise=noise.noise,
        timesteps=noise.timesteps,
        regularization_weight=0.0,
    )
    return float(losses.denoising)


def losses_before_and_after_tuning(pipe: E4TPipeline, image: Image.Image, caption: str) -> tuple[float, float]:
    """Return the losses before tuning and after 15 steps."""
    losses = []
    for concept in pipe.tune_checkpoints(TuningInputs(images=[image], captions=[caption]), (0, 15)):
        pipe.load_concept(concept)
        losses.append(loss(pipe, image, caption))
    pipe.unload_concept()
    return losses[0], losses[1]


@pytest.fixture(scope="module")
def release() -> E4TPipeline:
    return E4TPipeline.from_pretrained(RELEASE)


@pytest.fixture(scope="module")
def untrained(release: E4TPipeline) -> E4TPipeline:
    """Return the same base model with an untrained encoder and no weight offsets."""
    return E4TPipeline.from_base(
        release.backbone.config, release.conditioning.config, hidden_width=512, tune_config=release.tune_config
    )


@pytest.mark.long
def test_15_steps_from_the_release_lower_the_loss_more_than_15_steps_without_pretraining(
    release: E4TPipeline, untrained: E4TPipeline
) -> None:
    """Conformance check 11 (docs/conformance.md)."""
    gains, untrained_gains = 0.0, 0.0
    for image, caption in held_out_people(4):
        before, after = losses_before_and_after_tuning(release, image, caption)
        base, after_untrained = losses_before_and_after_tuning(untrained, image, caption)
        assert after < before < base
        assert after < after_untrained
        gains += base - after
        untrained_gains += base - after_untrained
    assert gains > 1.05 * untrained_gains  # measured: 1.07 on average, 1.04 to 1.08 for single people
