"""The benchmark of the weight offsets compares equal things."""

import math

import pytest

from benchmarks.offsets import max_relative_error, nan_max, shapes_of
from tests.bases import SHIPPED


@pytest.mark.parametrize("shape", [(320, 320), (640, 768), (5, 7)])
def test_both_forms_agree_in_value_and_gradients(shape: tuple[int, int]) -> None:
    assert max_relative_error(shape) < 1e-5


def test_the_shapes_of_all_projections_are_returned() -> None:
    assert len(shapes_of("stable-diffusion-v1-5/stable-diffusion-v1-5")) == 96
    assert set(shapes_of(str(SHIPPED))) == {(96, 96), (96, 128), (160, 160), (160, 128)}


def test_the_maximum_of_nan_is_nan() -> None:
    assert math.isnan(nan_max([1e-7, math.nan, 2e-7]))
