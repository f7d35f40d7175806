"""docs/conformance.md lists the conformance checks; every check has a test whose docstring names it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "conformance.md"


@pytest.mark.parametrize("number", range(1, 12))
def test_every_conformance_check_is_listed_and_has_a_test_in_each_listed_file(number: int) -> None:
    row = next(line for line in DOCUMENT.read_text().splitlines() if line.startswith(f"| {number} |"))
    paths = re.findall(r"`(tests/[^`]+)`", row)
    assert paths
    for path in paths:
        files = [ROOT / path] if path.endswith(".py") else (ROOT / path).rglob("*.py")
        assert any(re.search(rf"Conformance check {number}\b", file.read_text()) for file in files), path
