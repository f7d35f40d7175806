from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from e4t_errors import ConfigError
from encoder.backbone.backbone import Backbone
from encoder.concepts.concept import AppliedConcept, Concept
from encoder.concepts.weight_deltas import LowRankDelta, WeightDelta, WeightDeltas, to_dense
from encoder.config import BackboneConfig, ConditioningConfig, Precision, TuneConfig
from encoder.errors import ModelError
from encoder.model.conditioning import Conditioning
from encoder.model.domain_encoder import DomainEncoder
from encoder.model.features import class_tokens
from encoder.model.losses import NoiseSample, e4t_loss
from encoder.tuning.inputs import TuningImages
from encoder.tuning.trainable import concept_modules
from encoder.tuning.tuner import Tuner
from tests.bases import SHIPPED

QUICK = {"steps": 2, "batch_size": 2, "learning_rate": 1e-4}
Tune = Callable[..., list[Concept]]


@pytest.fixture
def tuned(backbone: Backbone, encoder: DomainEncoder, conditioning: Conditioning, pixels: Tensor) -> Tune:
    """Tune on the first image, by default for few steps; return the concepts."""

    def run(
        images: TuningImages | None = None, *, checkpoint_steps: tuple[int, ...] | None = None, **settings: object
    ) -> list[Concept]:
        config, images = TuneConfig(**QUICK | settings), images or TuningImages(pixels=pixels[:1])
        with Tuner(backbone, encoder, conditioning, images, config) as tuner:
            return tuner.run("test", checkpoint_steps or (config.steps,))

    return run


def weights(*modules: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for module in modules for parameter in module.parameters()]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def distance(one: Concept, other: Concept) -> float:
    """Norm of the difference of two concepts' UNet deltas, relative to the first."""
    a, b = (
        torch.cat([rows(delta).flatten() for delta in concept.weight_deltas["unet"].values()])
        for concept in (one, other)
    )
    return float((a - b).norm() / a.norm())


def rows(delta: WeightDelta) -> Tensor:
    if isinstance(delta, Tensor):
        return delta.float()
    if isinstance(delta, LowRankDelta):
        return delta.up.float() @ delta.down.float()
    return to_dense(delta, torch.Size(delta.values.shape))  # of 8 bits


def test_15_steps_lower_the_loss_of_the_image(
    backbone: Backbone, encoder: DomainEncoder, conditioning: Conditioning, pixels: Tensor, tuned: Tune
) -> None:
    """Conformance check 11 (docs/conformance.md)."""
    latents = backbone.posterior(pixels[:1]).mean.expand(8, -1, -1, -1)
    tokens = class_tokens(backbone, pixels[:1]).expand(8, -1, -1)
    prompts = conditioning.tokenize(["a portrait of a *s"] * 8)
    draw = NoiseSample.from_seeds(range(8), latents.shape[1:], 1000)

    @torch.no_grad()
    def loss() -> float:
        losses = e4t_loss(
            backbone, encoder, conditioning, latents=latents, class_tokens=tokens, prompts=prompts,
            noise=draw.noise, timesteps=draw.timesteps, regularization_weight=0.0,
        )  # fmt: skip
        return float(losses.denoising)

    before = loss()
    [concept] = tuned(steps=15, batch_size=8)
    AppliedConcept(concept, concept_modules(backbone, encoder))
    assert loss() < before


@pytest.mark.parametrize("train", ["unet", "attention", "lora"])
def test_tuning_leaves_the_models_bit_identical(
    backbone: Backbone, encoder: DomainEncoder, tuned: Tune, train: str
) -> None:
    before = weights(backbone, encoder)
    tuned(trainable=train, train_text_encoder=True, gradient_checkpointing=True)
    assert same(weights(backbone, encoder), before)


@pytest.mark.parametrize("train", ["unet", "lora"])
def test_an_interrupt_leaves_the_models_bit_identical(
    backbone: Backbone, encoder: DomainEncoder, conditioning: Conditioning, pixels: Tensor, train: str
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before, config = weights(backbone, encoder), TuneConfig(**QUICK, trainable=train)
    images = TuningImages(pixels=pixels[:1])
    with (
        pytest.raises(KeyboardInterrupt),
        Tuner(backbone, encoder, conditioning, images, config) as tuner,
    ):
        tuner.run("test", [config.steps], interrupt)
    assert same(weights(backbone, encoder), before)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


@pytest.mark.parametrize("train", ["unet", "lora"])
def test_loading_and_unloading_a_concept_leaves_the_models_bit_identical(
    backbone: Backbone, encoder: DomainEncoder, tuned: Tune, train: str
) -> None:
    [concept] = tuned(trainable=train, lora_learning_rate=0.01)
    before = weights(backbone, encoder)
    loaded = AppliedConcept(concept, concept_modules(backbone, encoder))
    assert not same(weights(backbone.unet), before)
    loaded.unload()
    assert same(weights(backbone, encoder), before)


def test_batches_smaller_than_the_number_of_images_use_every_image(tuned: Tune, pixels: Tensor) -> None:
    first = torch.cat([pixels[:1], pixels[:1]])
    both, same = (tuned(TuningImages(pixels=batch), batch_size=1, steps=2)[0] for batch in (pixels, first))
    assert distance(both, same) > 0


def test_the_same_seed_gives_the_same_concept(tuned: Tune) -> None:
    assert distance(*(tuned(trainable=train)[0] for train in ("lora", "lora"))) == 0
    assert distance(tuned()[0], tuned()[0]) == 0


def test_another_seed_gives_another_concept(tuned: Tune) -> None:
    assert distance(tuned()[0], tuned(seed=1)[0]) > 0.1


def test_0_steps_change_no_weight(tuned: Tune) -> None:
    [concept] = tuned(steps=0)
    assert not any(delta.any() for delta in concept.weight_deltas["unet"].values())


def test_an_intermediate_checkpoint_equals_tuning_for_so_many_steps(tuned: Tune) -> None:
    [alone] = tuned(steps=1)
    _, on_the_way, _ = tuned(checkpoint_steps=(0, 1, 2))
    assert distance(alone, on_the_way) == 0


def test_attention_tuning_changes_attention_only(tuned: Tune) -> None:
    deltas: WeightDeltas = tuned(trainable="attention")[0].weight_deltas["unet"]
    assert deltas
    assert all(".attn" in name for name in deltas)


def test_lora_tuning_returns_two_factors_for_every_projection(backbone: Backbone, tuned: Tune) -> None:
    deltas = tuned(trainable="lora", lora_rank=3)[0].weight_deltas["unet"]
    shapes = {name: tuple(parameter.shape) for name, parameter in backbone.unet.named_parameters()}
    assert all((*delta.up.shape, *delta.down.shape) == (shapes[name][0], 3, 3, shapes[name][1])
               for name, delta in deltas.items())  # fmt: skip
    assert len(deltas) == sum(name.endswith(("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight"))
                               for name in shapes)  # fmt: skip


def test_the_text_encoder_is_trained_if_train_text_encoder_is_set(tuned: Tune) -> None:
    assert not tuned()[0].weight_deltas.get("text_encoder")
    assert any(delta.any() for delta in tuned(train_text_encoder=True)[0].weight_deltas["text_encoder"].values())


@pytest.mark.parametrize(
    "settings", [{"micro_batch_size": 2}, {"micro_batch_size": 3}, {"gradient_checkpointing": True}]
)
def test_settings_that_save_memory_give_the_same_concept(tuned: Tune, settings: dict) -> None:
    plain, saving = tuned(batch_size=4)[0], tuned(batch_size=4, **settings)[0]
    assert (
        distance(plain, saving) < 0.02
    )  # Adam's first steps have the size of the rate whatever the gradient's rounding


def test_8_bit_deltas_record_a_small_rounding_error(tuned: Tune) -> None:
    exact, rounded = tuned()[0], tuned(delta_bits=8)[0]
    assert exact.settings["delta_error"] < 0.001
    assert 0 < rounded.settings["delta_error"] < 0.02
    assert distance(exact, rounded) == pytest.approx(rounded.settings["delta_error"], rel=0.2)


def test_8_bit_optimizer_states_give_nearly_the_same_concept(tuned: Tune) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    assert distance(tuned(steps=3)[0], tuned(steps=3, optimizer="adamw8bit")[0]) < 0.2


def in_precision(dtype: Precision, encoder: DomainEncoder, pixels: Tensor, **settings: object) -> Concept:
    """Tune with a base model in the given precision."""
    backbone = Backbone.load(BackboneConfig(model=str(SHIPPED), dtype=dtype))
    conditioning = Conditioning.from_backbone(backbone, ConditioningConfig(domain_word="person"))
    config = TuneConfig(**QUICK | settings)
    with Tuner(backbone, encoder, conditioning, TuningImages(pixels=pixels[:1]), config) as tuner:
        return tuner.run("test", [config.steps])[0]


def test_a_base_model_in_bfloat16_gives_nearly_the_same_concept(encoder: DomainEncoder, pixels: Tensor) -> None:
    exact, low_precision = (in_precision(dtype, encoder, pixels, steps=5) for dtype in ("float32", "bfloat16"))
    assert distance(exact, low_precision) < 0.5


def test_a_base_model_in_float16_is_refused(encoder: DomainEncoder, pixels: Tensor) -> None:
    with pytest.raises(ConfigError, match="bfloat16"):
        in_precision("float16", encoder, pixels)


def test_a_mask_weights_the_loss(tuned: Tune, pixels: Tensor) -> None:
    everything = torch.ones(1, 1, *pixels.shape[-2:])
    half = everything.clone()
    half[..., 32:] = 0
    plain, all_white, left_half = (
        tuned(TuningImages(pixels=pixels[:1], masks=mask))[0] for mask in (None, everything, half)
    )
    assert distance(plain, all_white) < 0.02
    assert distance(plain, left_half) > 0.1


def test_an_empty_mask_is_refused(pixels: Tensor) -> None:
    with pytest.raises(ModelError, match="black everywhere"):
        TuningImages(pixels=pixels[:1], masks=torch.zeros(1, 1, 64, 64))


def test_several_images_are_tuned_together(tuned: Tune, pixels: Tensor) -> None:
    [concept] = tuned(TuningImages(pixels=pixels))
    assert concept.settings["images"] == 2
    assert distance(concept, tuned()[0]) > 0.1


def test_negative_steps_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"tune\.steps"):
        TuneConfig(steps=-1)


@pytest.mark.parametrize("settings", [{}, {"trainable": "lora"}])
def test_tuning_that_diverges_makes_no_concept(tuned: Tune, settings: dict[str, object]) -> None:
    with pytest.raises(ModelError, match=r"not finite .* tuning has diverged.* lower --learning-rate"):
        tuned(learning_rate=1e39, **settings)


@pytest.mark.parametrize("settings", [{}, {"token_type": "embedding", "trainable": "none"}])
def test_tuning_on_latents_that_are_not_finite_makes_no_concept(
    tuned: Tune, pixels: Tensor, settings: dict[str, object]
) -> None:
    with pytest.raises(ModelError, match="not finite"):
        tuned(TuningImages(pixels=pixels[:1] * torch.nan), **settings)
