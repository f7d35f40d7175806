"""Static checks of the Dockerfile, since an image cannot be built without an image registry."""

import subprocess
import sys
from pathlib import Path

from tests.k8s.manifests import ROOT

FILE = ROOT / "k8s" / "Dockerfile"


def test_hadolint_accepts_the_dockerfile() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([str(hadolint), str(FILE)], capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    assert (done.returncode, done.stdout) == (0, "")


def test_the_build_context_contains_everything_that_is_copied() -> None:
    included = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copies = [line.split()[1:-1] for line in FILE.read_text().splitlines() if line.startswith("COPY ")]
    copied = {name for names in copies for name in names if not names[0].startswith("--")}
    assert copied == included
    assert all((ROOT / name).exists() for name in copied)


def test_every_package_of_the_project_is_in_the_image() -> None:
    text = FILE.read_text()
    for package in (ROOT / "pyproject.toml").read_text().partition('include = ["')[2].partition('"]')[0].split('", "'):
        assert f"COPY {package.rstrip('*')} " in text
