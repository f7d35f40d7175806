"""Python and packages against the bounds that e4t was installed with."""

import platform
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from pipelines.doctor.check import Finding, Needs
from pipelines.tracking.environment import PACKAGES


def packages(_: Needs) -> list[Finding]:
    """Which versions there are, then each that is not what e4t asks for."""
    try:
        own = distribution("e4t")
    except PackageNotFoundError:
        found = "e4t runs from a checkout that is not installed: nobody has chosen versions"
        return [Finding(what="packages", state="note", found=found, remedy="pip install -e .")]
    shown = ", ".join(f"{name} {_version(name) or 'missing'}" for name in PACKAGES)
    here = Finding(what="packages", state="ok", found=f"python {platform.python_version()}, {shown}")
    return [here, *unmet(own)]


def unmet(own: Distribution) -> Iterator[Finding]:
    """What a distribution requires and is not here."""
    python = SpecifierSet(own.metadata["Requires-Python"] or "")
    if not python.contains(platform.python_version(), prereleases=True):
        found = f"python {platform.python_version()}, but it takes {python}"
        yield Finding(what="packages", state="broken", found=found, remedy="make the environment with another python")
    for requirement in map(Requirement, own.requires or ()):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        there = _version(requirement.name)
        if there is None or not requirement.specifier.contains(there, prereleases=True):
            found = f"{requirement.name} {there or 'is missing'}, but it takes {requirement.specifier}"
            yield Finding(what="packages", state="broken", found=found, remedy=f"pip install '{requirement}'")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
