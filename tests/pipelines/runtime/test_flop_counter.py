"""Counted operations are those that PyTorch's own counter finds."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from encoder.backbone.backbone import Backbone
from pipelines.runtime.flop_counter import FlopCounter


def test_a_training_step_has_the_operations_that_pytorch_counts(backbone: Backbone) -> None:
    """With convolutions, attention, and activations that gradient checkpointing computes again."""
    unet = backbone.unet.train().requires_grad_(True)
    unet.enable_gradient_checkpointing()
    latents, prompts = torch.randn(1, *backbone.latent_shape(64)), torch.randn(1, 77, backbone.embedding_width)

    def step() -> None:
        with torch.no_grad():
            backbone.decode(latents)
        unet(latents, torch.tensor([3]), prompts).sample.sum().backward()

    with FlopCounterMode(display=False) as expected:
        step()
    with FlopCounter() as counter:
        step()
    assert counter.flops == expected.get_total_flops() > 0
