"""The check of installed versions against the requirements of e4t."""

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


def test_met_requirements_and_extras_are_not_reported(requiring) -> None:
    assert not list(unmet_requirements(requiring("torch>=2.6", 'unheard-of>=1; extra == "ray"')))


def test_a_version_out_of_bounds_fails_and_names_the_requirement(requiring) -> None:
    (result,) = unmet_requirements(requiring("torch<2.0"))
    assert result.status == "fail"
    assert result.detail.startswith("torch 2.")
    assert result.remedy == "pip install 'torch<2.0'"


def test_a_missing_package_fails(requiring) -> None:
    (result,) = unmet_requirements(requiring("unheard-of>=1"))
    assert (result.status, result.detail) == ("fail", "unheard-of is missing, but e4t needs >=1")


def test_an_unsupported_python_fails(requiring) -> None:
    (result,) = unmet_requirements(requiring(python=">=4"))
    assert f"python {sys.version.split()[0]}" in result.detail


def test_the_versions_of_the_main_packages_are_shown(tmp_path: Path) -> None:
    shown = check_packages(JobRequirements(runs=tmp_path, nproc=2))[0]
    names = ("python", "torch", "deepspeed", "accelerate", "diffusers", "transformers", "mlflow")
    assert all(f"{name} " in shown.detail for name in names)
