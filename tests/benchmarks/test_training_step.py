from argparse import Namespace

import pytest

from benchmarks.training_step import REGULARISER, Case, naive_loss
from tests.bases import SHIPPED


@pytest.fixture
def case() -> Case:
    return Case(Namespace(base=str(SHIPPED), side=64, batch=2, hidden_width=64))


def test_the_naive_form_has_the_same_loss(case: Case) -> None:
    naive = naive_loss(case.backbone, case.model, case.conditioning, case.pixels, case.prompts, case.draw)
    pictures = case.pictures()
    ours = case.model(pictures, case.prompts, case.draw, REGULARISER).total
    assert float(ours) == pytest.approx(float(naive), rel=1e-5)


def test_the_naive_form_also_learns_through_the_feature_pass(case: Case) -> None:
    case.backbone.unet.requires_grad_(True)
    naive_loss(case.backbone, case.model, case.conditioning, case.pixels, case.prompts, case.draw).backward()
    assert all(parameter.grad is not None for parameter in case.backbone.unet.parameters())
