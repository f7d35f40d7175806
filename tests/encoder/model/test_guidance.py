"""How the unconditional and the conditional prediction are combined."""

import pytest
import torch

from encoder.config import SampleConfig
from encoder.model.guidance import apply_guidance


def test_a_guidance_scale_of_1_gives_the_conditional_prediction() -> None:
    unconditional, conditional = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    guided = apply_guidance(unconditional, conditional, SampleConfig(guidance_scale=1.0))
    torch.testing.assert_close(guided, conditional)


@pytest.mark.parametrize("guidance_rescale", [0.0, 0.5, 1.0])
def test_guidance_is_rescaled_to_the_std_of_the_conditional_prediction(guidance_rescale: float) -> None:
    unconditional, conditional = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    guided = unconditional + 7.5 * (conditional - unconditional)
    std, guided_std = (each.std((1, 2, 3), keepdim=True) for each in (conditional, guided))
    expected = guidance_rescale * guided * std / guided_std + (1 - guidance_rescale) * guided
    config = SampleConfig(guidance_scale=7.5, guidance_rescale=guidance_rescale)
    torch.testing.assert_close(apply_guidance(unconditional, conditional, config), expected, rtol=1e-6, atol=1e-5)
