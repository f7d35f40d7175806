"""A base model's noise schedule is what the class that it was saved with means; other schedulers sample rightly."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2DiscreteScheduler,
    LCMScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

from e4t_errors import ConfigError
from encoder.backbone.backbone import Backbone
from encoder.backbone.schedulers import SCHEDULERS, check_scheduler, ddim_scheduler
from encoder.backbone.shapes import build_meta_backbone
from encoder.config import BackboneConfig
from tests.bases import SHIPPED

SD1: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
DETERMINISTIC = [
    EulerDiscreteScheduler,
    LMSDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2DiscreteScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    DEISMultistepScheduler,
    UniPCMultistepScheduler,
    PNDMScheduler,
]


@pytest.mark.parametrize("kind", [*DETERMINISTIC, EulerAncestralDiscreteScheduler])
def test_a_schedule_saved_by_another_class_has_no_clipping_and_the_same_betas(kind: Any) -> None:
    saved = kind(**SD1)
    scheduler = ddim_scheduler(dict(saved.config) | {"_class_name": kind.__name__}, "base")
    assert scheduler.config.clip_sample is False
    assert torch.equal(scheduler.alphas_cumprod, saved.alphas_cumprod)
    assert scheduler.config.timestep_spacing == saved.config.get("timestep_spacing", "linspace")
    assert scheduler.config.set_alpha_to_one is saved.config.get("set_alpha_to_one", True)


@pytest.mark.parametrize("kind", [DDIMScheduler, DDPMScheduler])
def test_a_class_that_clips_by_default_clips_unless_the_configuration_says_otherwise(kind: Any) -> None:
    name = {"_class_name": kind.__name__}
    assert ddim_scheduler(SD1 | name, "base").config.clip_sample is True
    assert ddim_scheduler(SD1 | name | {"clip_sample": False}, "base").config.clip_sample is False


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_class_name": "EDMEulerScheduler"}, "has the scheduler EDMEulerScheduler; only models with a discrete"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "has the scheduler FlowMatchEulerDiscreteScheduler"),
        ({"_class_name": "LCMScheduler"}, "has the scheduler LCMScheduler"),
        ({"_class_name": "Mine"}, "has the scheduler Mine"),
        ({"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True}, "use_flow_sigmas True"),
        ({"_class_name": "DPMSolverMultistepScheduler", "prediction_type": "flow_prediction"}, "flow_prediction"),
        ({"_class_name": "DDPMScheduler", "prediction_type": "sample"}, "prediction_type 'sample'"),
        ({"_class_name": "DDPMScheduler", "variance_type": "learned_range"}, "also predicts the variance"),
        ({"_class_name": "DDPMScheduler", "beta_schedule": "laplace"}, "noise schedule cannot be built"),
    ],
)
def test_a_model_without_a_discrete_noise_schedule_is_refused_by_name(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"base model my/base.*{message}"):
        ddim_scheduler(config, "my/base")


@pytest.fixture
def base_with(tmp_path: Path) -> Callable[[dict[str, Any]], BackboneConfig]:
    """Copy the tiny base model with another scheduler configuration."""

    def copy(config: dict[str, Any]) -> BackboneConfig:
        shutil.copytree(SHIPPED, tmp_path / "base")
        (tmp_path / "base/scheduler/scheduler_config.json").write_text(json.dumps(config))
        return BackboneConfig(model=str(tmp_path / "base"))

    return copy


def test_a_base_saved_with_euler_trains_and_samples_on_its_schedule(
    base_with: Callable[[dict[str, Any]], BackboneConfig],
) -> None:
    config = base_with(SD1 | {"_class_name": "EulerDiscreteScheduler", "prediction_type": "v_prediction"})
    for backbone in (Backbone.load(config), build_meta_backbone(config)):
        assert backbone.scheduler.config.clip_sample is False
        assert backbone.noise_scheduler.config.clip_sample is False
        assert backbone.noise_scheduler.config.prediction_type == "v_prediction"
        expected = EulerDiscreteScheduler(**SD1).alphas_cumprod
        assert torch.equal(backbone.noise_scheduler.alphas_cumprod, expected)


def test_a_base_with_flow_matching_is_refused_before_weights_are_loaded(
    base_with: Callable[[dict[str, Any]], BackboneConfig],
) -> None:
    config = base_with(
        dict(FlowMatchEulerDiscreteScheduler().config) | {"_class_name": "FlowMatchEulerDiscreteScheduler"}
    )
    for load in (Backbone.load, build_meta_backbone):
        with pytest.raises(ConfigError, match="FlowMatchEulerDiscreteScheduler"):
            load(config)


def test_schedulers_for_other_models_are_refused() -> None:
    base = DDIMScheduler(**SD1, prediction_type="v_prediction")
    for kind in DETERMINISTIC:
        check_scheduler(kind.from_config(base.config), base)
    with pytest.raises(ConfigError, match="LCMScheduler needs a model that was trained or distilled for it"):
        check_scheduler(LCMScheduler.from_config(base.config), base)
    with pytest.raises(ConfigError, match=r"prediction_type 'epsilon', the base model 'v_prediction'; build it with"):
        check_scheduler(EulerDiscreteScheduler(**SD1), base)
    with pytest.raises(ConfigError, match="another noise schedule than the base model"):
        check_scheduler(EulerDiscreteScheduler(prediction_type="v_prediction"), base)


def test_a_scheduler_that_cannot_end_without_signal_is_used_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    base = DDIMScheduler(**SD1, rescale_betas_zero_snr=True)
    check_scheduler(EulerDiscreteScheduler.from_config(base.config), base)
    assert not caplog.text
    check_scheduler(LMSDiscreteScheduler.from_config(base.config), base)
    assert "LMSDiscreteScheduler ignores the base model's rescale_betas_zero_snr" in caplog.text


def test_every_supported_class_exists_in_diffusers() -> None:
    import diffusers

    assert all(hasattr(diffusers, name) for name in SCHEDULERS)
