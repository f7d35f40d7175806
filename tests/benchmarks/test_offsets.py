import math

import pytest

from benchmarks.offsets import disagreement, largest, shapes_of
from tests.bases import SHIPPED


@pytest.mark.parametrize("shape", [(320, 320), (640, 768), (5, 7)])
def test_both_forms_agree_in_value_and_gradients(shape: tuple[int, int]) -> None:
    assert disagreement(shape) < 1e-5


def test_the_shapes_are_those_of_every_projection() -> None:
    assert len(shapes_of("stable-diffusion-v1-5/stable-diffusion-v1-5")) == 96
    assert set(shapes_of(str(SHIPPED))) == {(96, 96), (96, 128), (160, 160), (160, 128)}


def test_what_is_not_a_number_is_not_passed_over() -> None:
    assert math.isnan(largest([1e-7, math.nan, 2e-7]))
