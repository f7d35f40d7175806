import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextModel

from encoder.backbone.backbone import Backbone
from pipelines.tiny_base.diffusion import TextConditionedUNet, face_loss_weight, sample_timesteps


def test_the_loss_weight_is_largest_at_eyes_and_mouth() -> None:
    weight = face_loss_weight(16, 64, num_samples=16)
    assert torch.isclose(weight.mean(), torch.tensor(1.0))
    assert weight[6:12].mean() > 1.5 * weight[:5].mean()


def test_timesteps_are_valid_and_concentrate_on_medium_noise() -> None:
    timesteps = sample_timesteps(4000, 1000)
    assert 0 <= timesteps.min() <= timesteps.max() <= 999
    assert ((timesteps > 200) & (timesteps < 700)).float().mean() > 0.55
    assert (timesteps > 950).sum() > 20  # sampling starts from pure noise


def test_each_text_state_of_the_shipped_base_predicts_its_token(backbone: Backbone) -> None:
    assert isinstance(backbone.unet, UNet2DConditionModel)
    assert isinstance(backbone.text_encoders.encoders[0], CLIPTextModel)
    model = TextConditionedUNet(backbone.unet, backbone.text_encoders.encoders[0])
    tokens = backbone.text_encoders.tokenizers[0](
        ["a portrait of an adoring person in a red shirt"], return_tensors="pt"
    ).input_ids
    noisy = torch.randn(1, *backbone.latent_shape(64))
    _, token_logits = model(noisy, torch.tensor([500]), tokens)
    assert torch.equal(token_logits.argmax(-1), tokens)
