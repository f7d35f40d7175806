"""Python and packages against the bounds that e4t was installed with."""

import platform
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from pipelines.doctor.check import CheckResult, JobRequirements
from pipelines.tracking.environment import PACKAGES


def check_packages(_: JobRequirements) -> list[CheckResult]:
    """Which versions there are, then each that is not what e4t asks for."""
    try:
        dist = distribution("e4t")
    except PackageNotFoundError:
        detail = "e4t runs from a checkout that is not installed: nobody has chosen versions"
        return [CheckResult(name="packages", status="note", detail=detail, remedy="pip install -e .")]
    versions = ", ".join(f"{name} {_version(name) or 'missing'}" for name in PACKAGES)
    installed = CheckResult(name="packages", status="ok", detail=f"python {platform.python_version()}, {versions}")
    return [installed, *unmet_requirements(dist)]


def unmet_requirements(dist: Distribution) -> Iterator[CheckResult]:
    """What a distribution requires and is not here."""
    python = SpecifierSet(dist.metadata["Requires-Python"] or "")
    if not python.contains(platform.python_version(), prereleases=True):
        detail = f"python {platform.python_version()}, but it takes {python}"
        yield CheckResult(
            name="packages", status="broken", detail=detail, remedy="make the environment with another python"
        )
    for requirement in map(Requirement, dist.requires or ()):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        installed = _version(requirement.name)
        if installed is None or not requirement.specifier.contains(installed, prereleases=True):
            detail = f"{requirement.name} {installed or 'is missing'}, but it takes {requirement.specifier}"
            yield CheckResult(name="packages", status="broken", detail=detail, remedy=f"pip install '{requirement}'")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
