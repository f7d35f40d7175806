"""Plans for published and shipped base models: memory parts, sums and suggested overrides."""

from argparse import Namespace
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from benchmarks.tuning_memory import build_recipe
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


@cache
def pretraining_plan(num_devices: int = 2, **changes: Any) -> Plan:  # noqa: ANN401
    return plan_pretraining(replace(SMALL, pretrain=replace(SMALL.pretrain, **changes)), GPU, num_devices)


@cache
def tuning_plan(**changes: Any) -> Plan:  # noqa: ANN401
    return plan_tuning(replace(SMALL, tune=replace(SMALL.tune, **changes)), GPU)


@pytest.mark.long
def test_sd15_with_vit_h_has_the_published_number_of_trainable_parameters() -> None:
    """Conformance check 9 (docs/conformance.md): 143,226,592 overparametrized and 373,632 low-rank parameters."""
    recipe = replace(
        SMALL, base=BackboneConfig(model=SD1, image_encoder=VIT_H), data=replace(SMALL.data, resolution=64)
    )
    overparametrized = plan_pretraining(recipe, GPU, 1)
    low_rank = plan_pretraining(replace(recipe, pretrain=replace(recipe.pretrain, offset_type="low_rank")), GPU, 1)
    assert overparametrized.num_trainable - low_rank.num_trainable == 143_226_592 - 373_632
    assert overparametrized.device_memory["optimizer"] == 12 * overparametrized.num_trainable


@pytest.mark.parametrize(("stage", "sharded"), [(0, []), (1, ["optimizer"]), (3, ["optimizer", "trained weights"])])
def test_zero_shards_the_parts_of_its_stage(stage: int, sharded: list[str]) -> None:
    single, four = pretraining_plan(1).device_memory, pretraining_plan(4, zero_stage=stage).device_memory
    smaller = [part for part in ("trained weights", "optimizer") if four[part] < single[part]]
    assert sorted(smaller) == sharded


def test_plan_dict_holds_fields_and_derived_values() -> None:
    plan = tuning_plan()
    data = plan.to_dict()
    assert data["total_bytes"] == sum(data["device_memory"].values())
    assert data["device"]["name"] == "test"
    assert {"fits", "first_overflow", "seconds_per_step", "images_per_second", "hours"} <= data.keys()


def test_an_offloaded_optimizer_is_in_host_memory() -> None:
    plan = pretraining_plan(offload_optimizer=True)
    assert "optimizer" in plan.host_memory
    assert "optimizer" not in plan.device_memory


def test_a_single_device_communicates_nothing() -> None:
    assert pretraining_plan(1).comm_bytes == 0
    assert pretraining_plan(2).comm_bytes > 0


def test_cached_features_reduce_flops_and_device_memory() -> None:
    cached, online = pretraining_plan(use_feature_cache=True), pretraining_plan()
    assert cached.flops_per_image < online.flops_per_image
    encoder_bytes = cached.host_memory["VAE and CLIP image encoder"]
    assert cached.device_memory["frozen weights"] + encoder_bytes == online.device_memory["frozen weights"]


def test_a_larger_micro_batch_holds_more_activations() -> None:
    assert (
        pretraining_plan(1).device_memory["activations"]
        > pretraining_plan(1, micro_batch_size=1).device_memory["activations"]
    )


def test_trainable_selects_the_number_of_trainable_parameters() -> None:
    attention, lora = (tuning_plan(trainable=name).num_trainable for name in ("attention", "lora"))
    assert tuning_plan().num_trainable > attention > lora


def test_8_bit_moments_take_a_quarter_of_the_memory() -> None:
    part = "optimizer"
    assert tuning_plan(optimizer="adamw8bit").device_memory[part] == pytest.approx(
        0.25 * tuning_plan().device_memory[part], rel=0.02
    )


def test_low_precision_weights_keep_rounding_residuals() -> None:
    low = plan_tuning(replace(SMALL, base=replace(SMALL.base, dtype="bfloat16")), GPU)
    assert low.device_memory["rounding residuals"] > 0
    assert tuning_plan().device_memory["rounding residuals"] == 0


def test_a_recorded_prediction_is_reproduced_and_within_10_percent_of_the_measurement() -> None:
    [recorded] = [each for each in load_calibrations() if each.setting == "lora, bf16"]
    arguments = Namespace(base=SD1, resolution=128, hidden_width=None)
    cpu = find_device("cpu")
    assert cpu
    predicted = plan_tuning(build_recipe(recorded.setting, arguments), cpu).total_bytes / GIB
    assert predicted == pytest.approx(recorded.predicted_gib, rel=0.01)
    assert predicted == pytest.approx(recorded.measured_gib, rel=0.1)


def test_every_recorded_prediction_is_within_10_percent_of_the_measurement() -> None:
    assert all(abs(each.relative_error) < 0.1 for each in load_calibrations())


def test_on_a_cpu_everything_is_in_device_memory() -> None:
    cpu = find_device("cpu")
    assert cpu
    assert not plan_tuning(SMALL, cpu).host_memory


def test_the_first_part_that_exceeds_the_memory_is_named() -> None:
    plan = replace(tuning_plan(), device_memory={"weights": 50 * GIB, "optimizer": 40 * GIB, "activations": GIB})
    assert not plan.fits
    assert plan.first_overflow == "optimizer"


def test_suggested_overrides_make_the_plan_fit() -> None:
    plan = tuning_plan()
    tight = replace(GPU, memory_bytes=int(0.5 * (plan.total_bytes + tuning_plan(trainable="lora").total_bytes)))
    overrides, revised = suggest_overrides(SMALL, plan_tuning(SMALL, tight), lambda recipe: plan_tuning(recipe, tight))
    assert overrides
    assert revised.fits


def test_a_plan_that_cannot_fit_keeps_all_suggestions_and_does_not_fit() -> None:
    tiny = replace(GPU, memory_bytes=GIB // 2, overhead_bytes=GIB)
    recipe = replace(SMALL, pretrain=replace(SMALL.pretrain, micro_batch_size=2))
    overrides, revised = suggest_overrides(
        recipe, plan_pretraining(recipe, tiny, 1), lambda r: plan_pretraining(r, tiny, 1)
    )
    assert overrides == [
        "--base.dtype=bfloat16",
        "--pretrain.micro_batch_size=1",
        "--pretrain.offset_type=low_rank",
        "--pretrain.offload_optimizer=true",
    ]
    assert not revised.fits
