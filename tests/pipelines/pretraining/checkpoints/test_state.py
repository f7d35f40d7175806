"""The training state is the same for engines of every ZeRO stage on one, two and three ranks."""

from typing import Any

import pytest

from tests.pipelines.pretraining.checkpoints.every_stage import report_every_stage
from tests.warm_process import run_ranks

pytestmark = [pytest.mark.distributed]
Reports = dict[int, list[dict[str, Any]]]
CASES = 14
"""Four ZeRO stages, three of them also with an offloaded optimizer, in fp32 and bf16."""


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.long)])
def reports(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Reports:
    """Return rank 0's reports by number of ranks; a single process runs first, the others compare with its state."""
    folder = tmp_path_factory.mktemp("stages")
    return {world: run_ranks(report_every_stage, world, folder / "reference")[0] for world in (1, request.param)}


def each(reports: Reports) -> list[tuple[int, dict[str, Any]]]:
    return [(world, report) for world in reports for report in reports[world]]


def test_every_engine_is_a_deepspeed_engine_of_the_requested_stage_and_world_size(
    reports: Reports,
) -> None:
    built = [(r["engine"], r["world"], r["stage"], r["offload"]) for _, r in each(reports)]
    stages = [(0, False), (1, False), (2, False), (3, False), (1, True), (2, True), (3, True)]
    assert built == [("DeepSpeedEngine", world, *stage) for world in reports for stage in 2 * stages]
    assert [r["precision"] for _, r in each(reports)] == 2 * (["torch.float32"] * 7 + ["torch.bfloat16"] * 7)


@pytest.mark.parametrize(
    "property_name", ["initial state is exact", "a skipped step changes nothing", "resuming is exact"]
)
def test_properties_that_hold_bit_for_bit(reports: Reports, property_name: str) -> None:
    assert [r[property_name] for _, r in each(reports)] == [True] * CASES * len(reports)


def test_a_skipped_step_is_not_counted(reports: Reports) -> None:
    assert {r["optimizer steps"] for _, r in each(reports)} == {5}


def test_in_fp32_any_world_size_and_stage_resumes_from_any_other_up_to_rounding(
    reports: Reports,
) -> None:
    exact = [r for _, r in each(reports) if r["precision"] == "torch.float32"]
    assert max(r["from one process's state"] for r in exact) < 1e-4
    assert max(r["from the start"] for r in exact) < 1e-4


def test_in_bf16_any_world_size_and_stage_resumes_from_any_other_within_rounding_noise(
    reports: Reports,
) -> None:
    rounded = [r for _, r in each(reports) if r["precision"] == "torch.bfloat16"]
    assert (
        max(r["from one process's state"] for r in rounded) < 0.1
    )  # in multiples of the learning rate, after two steps


def test_the_gradient_does_not_depend_on_the_number_of_ranks(reports: Reports) -> None:
    """Conformance check 10: the moments, which are sums of gradients, agree to rounding."""
    assert max(r["gradient"] for _, r in each(reports) if r["precision"] == "torch.float32") < 1e-5
