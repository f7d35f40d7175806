"""Compare the versions of Python and of packages with the requirements of e4t."""

import platform
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from pipelines.doctor.check import CheckResult, JobRequirements
from pipelines.tracking.environment import PACKAGES


def check_packages(_: JobRequirements) -> list[CheckResult]:
    """Report installed versions, and every requirement that is not met."""
    try:
        dist = distribution("e4t")
    except PackageNotFoundError:
        detail = "e4t is not installed as a package, so versions cannot be checked"
        return [CheckResult(name="packages", status="warn", detail=detail, remedy="pip install -e .")]
    versions = ", ".join(f"{name} {_version(name) or 'missing'}" for name in PACKAGES)
    installed = CheckResult(name="packages", status="ok", detail=f"python {platform.python_version()}, {versions}")
    return [installed, *unmet_requirements(dist)]


def unmet_requirements(dist: Distribution) -> Iterator[CheckResult]:
    """Yield a failed result for every requirement of a distribution that the environment does not meet."""
    python = SpecifierSet(dist.metadata["Requires-Python"] or "")
    if not python.contains(platform.python_version(), prereleases=True):
        detail = f"python {platform.python_version()}, but e4t needs {python}"
        yield CheckResult(
            name="packages", status="fail", detail=detail, remedy="create the environment with a supported Python"
        )
    for requirement in map(Requirement, dist.requires or ()):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        installed = _version(requirement.name)
        if installed is None or not requirement.specifier.contains(installed, prereleases=True):
            detail = f"{requirement.name} {installed or 'is missing'}, but e4t needs {requirement.specifier}"
            yield CheckResult(name="packages", status="fail", detail=detail, remedy=f"pip install '{requirement}'")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
