import pytest
import torch
from torch import Tensor, nn

from encoder.backbone import Backbone
from encoder.concept import add_difference
from encoder.conditioning import Conditioning
from encoder.domain_encoder import DomainEncoder
from encoder.errors import ConfigError
from encoder.features import class_tokens
from encoder.objective import Draw, domain_tuning_loss
from encoder.tuning import LoadedConcept, TuneConfig, tune

QUICK = TuneConfig(steps=2, batch_size=2, learning_rate=1e-4)


def weights(*modules: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for module in modules for parameter in module.parameters()]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_15_steps_lower_the_loss_of_the_picture(
    backbone: Backbone, encoder: DomainEncoder, conditioning: Conditioning, pixels: Tensor
) -> None:
    latents = backbone.posterior(pixels[:1]).mean.expand(8, -1, -1, -1)
    tokens = class_tokens(backbone, pixels[:1]).expand(8, -1, -1)
    prompts = conditioning.tokenize(["a portrait of a *s"] * 8)
    draw = Draw.for_samples(range(8), latents.shape[1:], 1000)

    @torch.no_grad()
    def loss() -> float:
        losses = domain_tuning_loss(
            backbone, encoder, conditioning, latents=latents, class_tokens=tokens, prompts=prompts,
            noise=draw.noise, timesteps=draw.timesteps, regulariser=0.0,
        )  # fmt: skip
        return float(losses.denoising)

    before = loss()
    [concept] = tune(
        backbone,
        encoder,
        conditioning,
        pixels[:1],
        TuneConfig(steps=15, batch_size=8, learning_rate=1e-4),
        release="test",
    )
    add_difference(backbone.unet, concept.unet)
    add_difference(encoder, concept.encoder)
    assert loss() < before


def test_tuning_leaves_the_models_bit_identical(
    backbone: Backbone, encoder: DomainEncoder, conditioning: Conditioning, pixels: Tensor
) -> None:
    before = weights(backbone, encoder)
    tune(backbone, encoder, conditioning, pixels[:1], QUICK, release="test")
    assert same(weights(backbone, encoder), before)


def test_an_interrupt_leaves_the_models_bit_identical(
    backbone: Backbone, encoder: DomainEncoder, conditioning: Conditioning, pixels: Tensor
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = weights(backbone, encoder)
    with pytest.raises(KeyboardInterrupt):
        tune(backbone, encoder, conditioning, pixels[:1], QUICK, release="test", on_step=interrupt)
    assert same(weights(backbone, encoder), before)


def test_loading_and_unloading_a_concept_leaves_the_models_bit_identical(
    backbone: Backbone, encoder: DomainEncoder, conditioning: Conditioning, pixels: Tensor
) -> None:
    [concept] = tune(backbone, encoder, conditioning, pixels[:1], QUICK, release="test")
    before = weights(backbone, encoder)
    loaded = LoadedConcept(concept, backbone.unet, encoder)
    assert not same(weights(backbone, encoder), before)
    loaded.unload()
    assert same(weights(backbone, encoder), before)


def test_the_same_seed_gives_the_same_concept(
    backbone: Backbone, encoder: DomainEncoder, conditioning: Conditioning, pixels: Tensor
) -> None:
    [first], [second] = (tune(backbone, encoder, conditioning, pixels[:1], QUICK, release="test") for _ in range(2))
    assert all(torch.equal(first.unet[name], second.unet[name]) for name in first.unet)


def test_0_steps_change_no_weight(
    backbone: Backbone, encoder: DomainEncoder, conditioning: Conditioning, pixels: Tensor
) -> None:
    [concept] = tune(backbone, encoder, conditioning, pixels[:1], TuneConfig(steps=0), release="test")
    assert not any(change.any() for change in concept.unet.values())


def test_attention_tuning_changes_attention_only(
    backbone: Backbone, encoder: DomainEncoder, conditioning: Conditioning, pixels: Tensor
) -> None:
    config = TuneConfig(steps=1, batch_size=2, learning_rate=1e-4, train="attention")
    [concept] = tune(backbone, encoder, conditioning, pixels[:1], config, release="test")
    assert concept.unet
    assert all(".attn" in name for name in concept.unet)


def test_negative_steps_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"tune\.steps"):
        TuneConfig(steps=-1)


def test_a_stop_on_the_way_is_what_tuning_that_far_gives(
    backbone: Backbone, encoder: DomainEncoder, conditioning: Conditioning, pixels: Tensor
) -> None:
    config = TuneConfig(steps=1, batch_size=2, learning_rate=1e-4)
    [alone] = tune(backbone, encoder, conditioning, pixels[:1], config, release="test")
    _, on_the_way, _ = tune(backbone, encoder, conditioning, pixels[:1], QUICK, release="test", stops=(0, 1, 2))
    assert all(torch.equal(alone.unet[name], on_the_way.unet[name]) for name in alone.unet)
