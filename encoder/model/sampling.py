"""Sample latents with classifier-free guidance, from reproducible noise."""

from collections.abc import Callable, Sequence
from inspect import signature

import torch
from diffusers import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from encoder.config import SampleConfig
from encoder.model.guidance import ClassifierFreeGuidance, apply_guidance

Generators = torch.Generator | Sequence[torch.Generator]
"""One random generator for the whole batch, or one per image, as in diffusers' pipelines."""
StepCallback = Callable[[int, Tensor, dict[str, Tensor]], dict[str, Tensor]]
"""Called after each denoising step with the step's index, its timestep and ``{"latents": latents}``. Latents in the
dictionary that it returns replace the current ones."""


def seeded_generators(seed: int, count: int) -> list[torch.Generator]:
    """Create one CPU generator per image, seeded with ``seed``, ``seed + 1``, and so on.

    With these, an image depends on its own seed alone and not on the size of the batch.
    """
    return [torch.Generator().manual_seed(seed + index) for index in range(count)]


def initial_noise(shape: Sequence[int], count: int, generator: Generators | None, device: torch.device | str) -> Tensor:
    """Draw unit noise (count, C, h, w) for latents of ``shape`` (C, h, w), with torch's global generator by default.

    Raises ValueError if a list of generators does not hold one per image.
    """
    if isinstance(generator, Sequence):
        generator = list(generator)
        if len(generator) != count:
            raise ValueError(
                f"generator is a list of {len(generator)}, but there are {count} images; give one per image"
            )
    noise: Tensor = randn_tensor((count, *shape), generator=generator, device=torch.device(device))
    return noise


def denoise(
    guidance: ClassifierFreeGuidance,
    scheduler: SchedulerMixin,
    noise: Tensor,
    config: SampleConfig,
    on_step_end: StepCallback | None = None,
    generator: Generators | None = None,
) -> Tensor:
    """Denoise unit noise (B, C, h, w) to latents of the same shape, with a scheduler that ``check_scheduler`` accepts.

    ``generator`` is for schedulers that add noise in each step, such as the ancestral ones.
    """
    scheduler.set_timesteps(config.num_inference_steps)
    latents = noise * float(scheduler.init_noise_sigma)  # depends on the timesteps
    step_kwargs = {"generator": generator} if "generator" in signature(scheduler.step).parameters else {}
    for index, timestep in enumerate(scheduler.timesteps):
        unconditional, conditional = guidance(scheduler.scale_model_input(latents, timestep), timestep)
        prediction = apply_guidance(unconditional, conditional, config)
        latents = scheduler.step(prediction, timestep, latents, **step_kwargs).prev_sample
        if on_step_end:
            latents = on_step_end(index, timestep, {"latents": latents}).get("latents", latents)
    return latents
