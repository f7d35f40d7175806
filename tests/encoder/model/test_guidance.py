"""How the unconditional and the conditional prediction are combined."""

import pytest
import torch
from diffusers.guiders.guider_utils import rescale_noise_cfg

from encoder.config import SampleConfig
from encoder.model.guidance import apply_guidance


def test_a_guidance_scale_of_1_gives_the_conditional_prediction() -> None:
    unconditional, conditional = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    guided = apply_guidance(unconditional, conditional, SampleConfig(guidance_scale=1.0))
    torch.testing.assert_close(guided, conditional)


@pytest.mark.parametrize("guidance_rescale", [0.0, 0.5, 1.0])
def test_guidance_is_rescaled_as_in_diffusers(guidance_rescale: float) -> None:
    unconditional, conditional = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    guided = unconditional + 7.5 * (conditional - unconditional)
    expected = rescale_noise_cfg(guided, conditional, guidance_rescale)
    config = SampleConfig(guidance_scale=7.5, guidance_rescale=guidance_rescale)
    torch.testing.assert_close(apply_guidance(unconditional, conditional, config), expected, rtol=1e-6, atol=1e-5)


def test_a_full_rescale_has_the_std_of_the_conditional_prediction() -> None:
    unconditional, conditional = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    guided = apply_guidance(unconditional, conditional, SampleConfig(guidance_scale=7.5, guidance_rescale=1.0))
    torch.testing.assert_close(guided.std((1, 2, 3)), conditional.std((1, 2, 3)))
