"""The release in models/faces: what a longer pre-training is worth to those who only tune."""

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
    """Pictures of people that neither base nor release has seen, with what is to be seen beside the person."""
    rng, found = random.Random(3), list[tuple[Image.Image, str]]()
    while len(found) < count:
        person, scene = Identity.random(rng), Scene.random(rng)
        if split_of(person.name, SplitFractions()) == "test":
            found.append((render(person, scene), scene.caption("a {expression} *s")))
    return found


@torch.no_grad()
def loss(pipe: E4TPipeline, picture: Image.Image, caption: str) -> float:
    """The picture's denoising loss at fixed noise and timesteps."""
    pixels = pipe.preprocess(picture)
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


def losses_on_the_way(pipe: E4TPipeline, picture: Image.Image, caption: str) -> tuple[float, float]:
    """Before tuning and after 15 steps."""
    found = []
    for concept in pipe.tune_checkpoints(TuningInputs(images=[picture], captions=[caption]), (0, 15)):
        pipe.load_concept(concept)
        found.append(loss(pipe, picture, caption))
    pipe.unload_concept()
    return found[0], found[1]


@pytest.fixture(scope="module")
def release() -> E4TPipeline:
    return E4TPipeline.from_pretrained(RELEASE)


@pytest.fixture(scope="module")
def untrained(release: E4TPipeline) -> E4TPipeline:
    """The same base with a fresh encoder and no offsets."""
    return E4TPipeline.from_base(
        release.backbone.config, release.conditioning.config, hidden_width=512, tune_config=release.tune_config
    )


def test_15_steps_from_the_release_end_further_below_the_bases_loss_than_15_from_nothing(
    release: E4TPipeline, untrained: E4TPipeline
) -> None:
    """Conformance check 11 (docs/conformance.md)."""
    gains, gains_from_nothing = 0.0, 0.0
    for picture, caption in held_out_people(4):
        before, after = losses_on_the_way(release, picture, caption)
        base, after_from_nothing = losses_on_the_way(untrained, picture, caption)
        assert after < before < base
        assert after < after_from_nothing
        gains += base - after
        gains_from_nothing += base - after_from_nothing
    assert gains > 1.05 * gains_from_nothing  # at the release's rate 1.07, of single people 1.04 to 1.08
