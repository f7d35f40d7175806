"""The noise schedule of a base model, and the schedulers that can sample from it."""

import inspect
import logging
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import DDIMScheduler, SchedulerMixin, schedulers
from diffusers.schedulers import KarrasDiffusionSchedulers

from e4t_errors import ConfigError

SCHEDULERS = frozenset(
    {each.name for each in KarrasDiffusionSchedulers} - {"EDMEulerScheduler"}
    | {"DDIMParallelScheduler", "DDPMParallelScheduler"}
)
"""Classes of diffusers that sample from models with a discrete noise schedule (betas), as Stable Diffusion has."""
log = logging.getLogger(__name__)
PREDICTION_TYPES = ("epsilon", "v_prediction")


def ddim_scheduler(config: Mapping[str, Any], model: str) -> DDIMScheduler:
    """Build the DDIM scheduler of a base model from the scheduler configuration that it was saved with.

    Keys that the configuration leaves out have the defaults of the class that it names, not those of
    ``DDIMScheduler``. What that class does not have, such as clipping of samples, is switched off.

    Args:
        config: content of ``scheduler_config.json``.
        model: folder or hub id of the base model, for messages.

    Raises:
        ConfigError: if the class or its settings describe no model with a discrete noise schedule.
    """
    name = str(config.get("_class_name") or DDIMScheduler.__name__)
    if name not in SCHEDULERS:
        raise ConfigError(
            f"base model {model} has the scheduler {name}; only models with a discrete noise schedule are supported: "
            f"{', '.join(sorted(SCHEDULERS))}"
        )
    settings = _with_class_defaults(name, config)
    key = "use_flow_sigmas" if settings.get("use_flow_sigmas") else "prediction_type"
    if key == "use_flow_sigmas" or settings[key] not in PREDICTION_TYPES:
        raise ConfigError(
            f"base model {model}: its {name} has {key} {settings[key]!r}; only prediction_type "
            f"{' and '.join(PREDICTION_TYPES)} are supported, without flow matching"
        )
    if str(settings.get("variance_type", "")).startswith("learned"):
        raise ConfigError(f"base model {model}: its UNet also predicts the variance, which is not supported")
    accepted = inspect.signature(DDIMScheduler.__init__).parameters
    try:
        return DDIMScheduler(**{key: value for key, value in settings.items() if key in accepted})
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ConfigError(f"base model {model}: its noise schedule cannot be built ({error})") from error


def _with_class_defaults(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Complete a configuration with the defaults of its class, and with what that does instead of DDIM's options."""
    parameters = inspect.signature(getattr(schedulers, name).__init__).parameters.values()
    defaults = {each.name: each.default for each in parameters if each.default is not inspect.Parameter.empty}
    settings = defaults | {key: value for key, value in config.items() if not key.startswith("_")}
    ends_at_zero_noise = settings.get("final_sigmas_type", "zero") == "zero"
    return {
        "prediction_type": "epsilon",
        "clip_sample": False,
        "set_alpha_to_one": ends_at_zero_noise,
        "timestep_spacing": "linspace",
        **settings,
    }


def check_scheduler(scheduler: SchedulerMixin, base: DDIMScheduler) -> None:
    """Check that a scheduler can sample from the base model whose own scheduler is ``base``.

    Raises:
        ConfigError: if its class needs another kind of model, or its noise schedule is another one.
    """
    name = type(scheduler).__name__
    if name not in SCHEDULERS:
        raise ConfigError(
            f"scheduler {name} needs a model that was trained or distilled for it; use one of "
            f"{', '.join(sorted(SCHEDULERS))}"
        )
    hint = f"build it with {name}.from_config(pipe.scheduler.config)"
    if scheduler.config.prediction_type != base.config.prediction_type:
        raise ConfigError(
            f"scheduler {name} has prediction_type {scheduler.config.prediction_type!r}, the base model "
            f"{base.config.prediction_type!r}; {hint}"
        )
    if _has_same_schedule(scheduler, base):
        return
    # Classes without this option cannot represent a last step without any signal; diffusers samples with them anyway.
    can_rescale = "rescale_betas_zero_snr" in inspect.signature(type(scheduler).__init__).parameters
    rescaled = base.config.rescale_betas_zero_snr and not can_rescale
    if not rescaled or not _has_same_schedule(
        scheduler, DDIMScheduler.from_config(base.config, rescale_betas_zero_snr=False)
    ):
        raise ConfigError(f"scheduler {name} has another noise schedule than the base model; {hint}")
    log.warning("scheduler %s ignores the base model's rescale_betas_zero_snr: images are less exact", name)


def _has_same_schedule(one: SchedulerMixin, other: SchedulerMixin) -> bool:
    first, second = one.alphas_cumprod, other.alphas_cumprod
    return first.shape == second.shape and torch.allclose(first, second.to(first), atol=1e-5)
