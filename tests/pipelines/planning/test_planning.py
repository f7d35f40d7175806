"""Plans of the published bases and of the shipped one: parts, sums, remedies."""

from argparse import Namespace
from dataclasses import replace
from typing import Any

import pytest

from benchmarks.tuning_memory import recipe as recipe_of
from data_prep.config import PrepareConfig
from encoder.config import BackboneConfig, ConditioningConfig, TuneConfig
from pipelines.config.pretraining import PretrainConfig
from pipelines.config.recipe import Recipe
from pipelines.planning.plan import Plan
from pipelines.planning.pretraining import plan_pretraining
from pipelines.planning.report import load_calibrations
from pipelines.planning.suggestions import suggest_overrides
from pipelines.planning.tuning import plan_tuning
from pipelines.runtime.device_specs import GIB, Device, find_device
from tests.bases import SHIPPED

SD1, VIT_H = "stable-diffusion-v1-5/stable-diffusion-v1-5", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
SMALL = Recipe(
    name="small",
    base=BackboneConfig(model=str(SHIPPED)),
    data=PrepareConfig(source="none", output="none", domain="person", resolution=64),
    conditioning=ConditioningConfig(domain_word="person", templates=("a *s",)),
    pretrain=PretrainConfig(hidden_width=64, global_batch_size=8, micro_batch_size=4),
    tune=TuneConfig(batch_size=4),
)
GPU = Device(name="test", memory_bytes=80 * GIB, teraflops=100.0)


def pretrained(devices: int = 2, **changes: Any) -> Plan:  # noqa: ANN401
    return plan_pretraining(replace(SMALL, pretrain=replace(SMALL.pretrain, **changes)), GPU, devices)


def tuned(**changes: Any) -> Plan:  # noqa: ANN401
    return plan_tuning(replace(SMALL, tune=replace(SMALL.tune, **changes)), GPU)


def test_sd15_with_vit_h_trains_what_the_method_says() -> None:
    """Conformance check 9, seen from the plan: 143,226,592 parameters of the offsets, or 373,632."""
    recipe = replace(
        SMALL, base=BackboneConfig(model=SD1, image_encoder=VIT_H), data=replace(SMALL.data, resolution=64)
    )
    faithful = plan_pretraining(recipe, GPU, 1)
    direct = plan_pretraining(replace(recipe, pretrain=replace(recipe.pretrain, offset_type="low_rank")), GPU, 1)
    assert faithful.num_trainable - direct.num_trainable == 143_226_592 - 373_632
    assert faithful.device_memory["optimizer"] == 12 * faithful.num_trainable


@pytest.mark.parametrize(("stage", "shared"), [(0, []), (1, ["optimizer"]), (3, ["optimizer", "trained weights"])])
def test_zero_shares_what_its_stage_shares(stage: int, shared: list[str]) -> None:
    alone, four = (pretrained(devices, zero_stage=stage).device_memory for devices in (1, 4))
    less = [part for part in ("trained weights", "optimizer") if four[part] < alone[part]]
    assert sorted(less) == shared


def test_an_offloaded_optimizer_is_in_the_hosts_memory() -> None:
    plan = pretrained(offload_optimizer=True)
    assert "optimizer" in plan.host_memory
    assert "optimizer" not in plan.device_memory


def test_a_single_device_sends_nothing() -> None:
    assert pretrained(1).comm_bytes == 0
    assert pretrained(2).comm_bytes > 0


def test_cached_features_leave_less_to_compute_and_to_hold() -> None:
    cached, online = pretrained(cached=True), pretrained()
    assert cached.flops_per_image < online.flops_per_image
    towers = cached.host_memory["autoencoder and picture tower"]
    assert cached.device_memory["frozen weights"] + towers == online.device_memory["frozen weights"]


def test_more_pictures_at_once_hold_more_activations() -> None:
    assert (
        pretrained(1, micro_batch_size=4).device_memory["activations"]
        > pretrained(1, micro_batch_size=1).device_memory["activations"]
    )


def test_what_is_tuned_decides_what_learns() -> None:
    whole, attention, low_rank = (tuned(train=train).num_trainable for train in ("unet", "attention", "lora"))
    assert whole > attention > low_rank


def test_8_bit_moments_take_a_quarter() -> None:
    part = "optimizer"
    assert tuned(optimizer="adamw8bit").device_memory[part] == pytest.approx(
        0.25 * tuned().device_memory[part], rel=0.02
    )


def test_weights_of_low_precision_keep_what_rounding_took() -> None:
    low = plan_tuning(replace(SMALL, base=replace(SMALL.base, dtype="bfloat16")), GPU)
    assert low.device_memory["what rounding took"] > 0
    assert tuned().device_memory["what rounding took"] == 0


def test_a_former_prediction_is_still_made_and_was_right_within_a_tenth() -> None:
    [known] = [each for each in load_calibrations() if each.setting == "lora, bf16"]
    arguments = Namespace(base=SD1, side=128, hidden_width=None)
    cpu = find_device("cpu")
    assert cpu
    predicted = plan_tuning(recipe_of(known.setting, arguments), cpu).total_bytes / GIB
    assert predicted == pytest.approx(known.predicted_gib, rel=0.01)
    assert predicted == pytest.approx(known.measured_gib, rel=0.1)


def test_every_former_prediction_was_right_within_a_tenth() -> None:
    assert all(abs(each.relative_error) < 0.1 for each in load_calibrations())


def test_on_a_cpu_everything_is_in_one_memory() -> None:
    cpu = find_device("cpu")
    assert cpu
    assert not plan_tuning(SMALL, cpu).host_memory


def test_the_first_part_that_does_not_fit_is_named() -> None:
    plan = replace(tuned(), memory={"weights": 50 * GIB, "optimizer": 40 * GIB, "activations": GIB})
    assert not plan.fits
    assert plan.first_overflow == "optimizer"


def test_what_to_change_makes_it_fit() -> None:
    plan = tuned()
    tight = replace(GPU, memory=int(0.5 * (plan.total_bytes + tuned(train="lora").total_bytes)))
    overrides, changed = suggest_overrides(SMALL, plan_tuning(SMALL, tight), lambda recipe: plan_tuning(recipe, tight))
    assert overrides
    assert changed.fits


def test_what_cannot_fit_is_said_so() -> None:
    tiny = replace(GPU, memory=GIB // 2, runtime=GIB)
    overrides, changed = suggest_overrides(
        SMALL, plan_pretraining(SMALL, tiny, 1), lambda r: plan_pretraining(r, tiny, 1)
    )
    assert "--pretrain.offload_optimizer=true" in overrides
    assert not changed.fits
