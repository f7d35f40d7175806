"""Bounds of a distribution, as it was installed, against what is here."""

import sys
from importlib.metadata import Distribution
from pathlib import Path

import pytest

from pipelines.doctor.check import JobRequirements
from pipelines.doctor.packages import check_packages, unmet_requirements


@pytest.fixture
def requiring(tmp_path: Path):
    def make(*requirements: str, python: str = ">=3.11") -> Distribution:
        lines = ["Metadata-Version: 2.4", "Name: made-up", "Version: 1.0", f"Requires-Python: {python}"]
        lines += [f"Requires-Dist: {each}" for each in requirements]
        folder = tmp_path / "made_up-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("\n".join(lines) + "\n\n")
        return Distribution.at(folder)

    return make


def test_bounds_that_hold_and_extras_say_nothing(requiring) -> None:
    assert not list(unmet_requirements(requiring("torch>=2.6", 'unheard-of>=1; extra == "ray"')))


def test_a_version_out_of_bounds_is_broken_and_says_what_to_install(requiring) -> None:
    (found,) = unmet_requirements(requiring("torch<2.0"))
    assert found.status == "broken"
    assert found.detail.startswith("torch 2.")
    assert found.remedy == "pip install 'torch<2.0'"


def test_a_package_that_is_missing_is_broken(requiring) -> None:
    (found,) = unmet_requirements(requiring("unheard-of>=1"))
    assert (found.status, found.detail) == ("broken", "unheard-of is missing, but it takes >=1")


def test_another_python_is_broken(requiring) -> None:
    (found,) = unmet_requirements(requiring(python=">=4"))
    assert f"python {sys.version.split()[0]}" in found.detail


def test_every_version_that_matters_is_shown(tmp_path: Path) -> None:
    shown = check_packages(JobRequirements(runs=tmp_path, nproc=2))[0]
    names = ("python", "torch", "deepspeed", "accelerate", "diffusers", "transformers", "webdataset", "mlflow")
    assert all(f"{name} " in shown.detail for name in names)
