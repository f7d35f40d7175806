import pytest
import torch
from torch import Tensor

from encoder.backbone.backbone import Backbone
from encoder.model.conditioning import Conditioning
from encoder.model.domain_encoder import DomainEncoder
from encoder.model.features import class_tokens, unet_encoder_features
from encoder.model.losses import Losses, NoiseSample, denoising_loss, e4t_loss, embedding_regularization
from encoder.model.weight_offsets import OffsetPredictor, set_offsets


@pytest.fixture
def losses(
    backbone: Backbone, encoder: DomainEncoder, conditioning: Conditioning, offsets: OffsetPredictor, pixels: Tensor
) -> Losses:
    set_offsets(backbone.unet, offsets())
    latents = backbone.posterior(pixels).mean
    draw = NoiseSample.from_seeds([1, 2], latents.shape[1:], 1000)
    return e4t_loss(
        backbone, encoder, conditioning, latents=latents, class_tokens=class_tokens(backbone, pixels),
        prompts=conditioning.tokenize(["a portrait of a *s"] * 2), noise=draw.noise, timesteps=draw.timesteps,
        regularization_weight=0.01,
    )  # fmt: skip


def test_gradients_reach_exactly_the_trained_modules(
    losses: Losses, backbone: Backbone, encoder: DomainEncoder, offsets: OffsetPredictor
) -> None:
    losses.total.backward()
    assert all(parameter.grad is not None for parameter in (*encoder.parameters(), *offsets.parameters()))
    assert all(parameter.grad is None for parameter in backbone.parameters())


def test_the_word_changes_with_the_timestep_the_noise_and_the_picture(
    backbone: Backbone, encoder: DomainEncoder, conditioning: Conditioning, pixels: Tensor
) -> None:
    def word(picture: int, noise: int, timestep: int) -> Tensor:
        noisy = torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(noise))
        maps = unet_encoder_features(
            backbone, noisy, torch.tensor([timestep]), conditioning.unconditional_embeddings()
        ).pooled_features
        return encoder(class_tokens(backbone, pixels[picture : picture + 1]), maps)

    reference = word(0, 0, 500)
    assert torch.equal(word(0, 0, 500), reference)
    for other in (word(1, 0, 500), word(0, 1, 500), word(0, 0, 100)):
        assert not torch.allclose(other, reference, atol=1e-4)


@pytest.mark.parametrize("copies", [1, 2, 7])
def test_the_regulariser_does_not_depend_on_the_batch_size(copies: int) -> None:
    v = torch.randn(1, 16)
    torch.testing.assert_close(embedding_regularization(v.expand(copies, -1), 0.01), 0.01 * v.pow(2).sum())


def test_the_regulariser_is_0_at_v_0() -> None:
    assert embedding_regularization(torch.zeros(3, 16), 0.1) == 0


def test_a_mask_leaves_out_what_it_covers() -> None:
    prediction, wanted = torch.zeros(1, 4, 2, 2), torch.ones(1, 4, 2, 2)
    wanted[..., 0] = 100
    mask = torch.tensor([0.0, 1.0]).expand(1, 1, 2, 2)
    assert denoising_loss(prediction, wanted, mask) == 1


def test_a_samples_randomness_depends_on_its_seed_alone() -> None:
    together, alone = (
        NoiseSample.from_seeds([7, 8, 9], (8, 16, 16), 1000),
        NoiseSample.from_seeds([8], (8, 16, 16), 1000),
    )
    assert torch.equal(together.noise[1], alone.noise[0])
    assert together.timesteps[1] == alone.timesteps[0]
    assert not torch.equal(together.noise[0], together.noise[1])
