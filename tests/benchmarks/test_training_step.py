"""The naive implementation that the benchmark compares with computes the same loss."""

from argparse import Namespace

import pytest

from benchmarks.training_step import REGULARIZATION_WEIGHT, Case, naive_loss
from tests.bases import SHIPPED


@pytest.fixture
def case() -> Case:
    return Case(Namespace(base=str(SHIPPED), resolution=64, batch_size=2, hidden_width=64))


def test_the_naive_implementation_has_the_same_loss(case: Case) -> None:
    naive = naive_loss(case.backbone, case.model, case.conditioning, case.pixels, case.prompts, case.noise)
    optimized = case.model(case.encode(), case.prompts, case.noise, REGULARIZATION_WEIGHT).total
    assert float(optimized) == pytest.approx(float(naive), rel=1e-5)


def test_the_naive_implementation_has_gradients_through_the_feature_pass(case: Case) -> None:
    case.backbone.unet.requires_grad_(True)
    naive_loss(case.backbone, case.model, case.conditioning, case.pixels, case.prompts, case.noise).backward()
    assert all(parameter.grad is not None for parameter in case.backbone.unet.parameters())
