"""The training loss and its random numbers."""

import pytest
import torch
from torch import Tensor

from encoder.backbone.backbone import Backbone
from encoder.model.conditioning import Conditioning
from encoder.model.domain_encoder import DomainEncoder
from encoder.model.features import class_tokens, unet_encoder_features
from encoder.model.losses import Losses, NoiseSample, denoising_loss, e4t_loss, embedding_regularization
from encoder.model.weight_offsets import OffsetPredictor, applied_offsets


@pytest.fixture
def losses(
    backbone: Backbone, encoder: DomainEncoder, conditioning: Conditioning, offsets: OffsetPredictor, pixels: Tensor
) -> Losses:
    latents = backbone.posterior(pixels).mean
    sample = NoiseSample.from_seeds([1, 2], latents.shape[1:], 1000)
    with applied_offsets(backbone.unet, offsets()):
        return e4t_loss(
            backbone, encoder, conditioning, latents=latents, class_tokens=class_tokens(backbone, pixels),
            prompts=conditioning.tokenize(["a portrait of a *s"] * 2), noise=sample.noise, timesteps=sample.timesteps,
            regularization_weight=0.01,
        )  # fmt: skip


def test_gradients_reach_exactly_the_trained_modules(
    losses: Losses, backbone: Backbone, encoder: DomainEncoder, offsets: OffsetPredictor
) -> None:
    """Conformance check 7 (docs/conformance.md)."""
    losses.total.backward()
    assert all(parameter.grad is not None for parameter in (*encoder.parameters(), *offsets.parameters()))
    assert all(parameter.grad is None for parameter in backbone.parameters())


def test_v_changes_with_the_timestep_the_noise_and_the_image(
    backbone: Backbone, encoder: DomainEncoder, conditioning: Conditioning, pixels: Tensor
) -> None:
    """Conformance check 6 (docs/conformance.md)."""

    def v(image: int, noise: int, timestep: int) -> Tensor:
        noisy = torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(noise))
        features = unet_encoder_features(
            backbone, noisy, torch.tensor([timestep]), conditioning.unconditional_embeddings()
        ).pooled_features
        return encoder(class_tokens(backbone, pixels[image : image + 1]), features)

    reference = v(0, 0, 500)
    assert torch.equal(v(0, 0, 500), reference)
    for other in (v(1, 0, 500), v(0, 1, 500), v(0, 0, 100)):
        assert not torch.allclose(other, reference, atol=1e-4)


@pytest.mark.parametrize("copies", [1, 2, 7])
def test_the_regularization_does_not_depend_on_the_batch_size(copies: int) -> None:
    """Conformance check 8 (docs/conformance.md)."""
    v = torch.randn(1, 16)
    torch.testing.assert_close(embedding_regularization(v.expand(copies, -1), 0.01), 0.01 * v.pow(2).sum())


def test_the_regularization_is_0_at_v_0() -> None:
    """Conformance check 8 (docs/conformance.md)."""
    assert embedding_regularization(torch.zeros(3, 16), 0.1) == 0


def test_an_error_where_the_mask_is_zero_does_not_count() -> None:
    prediction, target = torch.zeros(1, 4, 2, 2), torch.ones(1, 4, 2, 2)
    target[..., 0] = 100
    mask = torch.tensor([0.0, 1.0]).expand(1, 1, 2, 2)
    assert denoising_loss(prediction, target, mask) == 1


def test_the_random_numbers_of_a_sample_depend_on_its_seed_alone() -> None:
    together, alone = (
        NoiseSample.from_seeds([7, 8, 9], (8, 16, 16), 1000),
        NoiseSample.from_seeds([8], (8, 16, 16), 1000),
    )
    assert torch.equal(together.noise[1], alone.noise[0])
    assert together.timesteps[1] == alone.timesteps[0]
    assert not torch.equal(together.noise[0], together.noise[1])
