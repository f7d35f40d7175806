"""Hostile files: unpickling them or running their code writes a marker file."""

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """Return the path that hostile files write when their code runs."""
    return tmp_path / "it-ran"


class Hostile:
    """An object that writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., int], tuple[Path, str]]:
        return Path.write_text, (self.marker, "unpickled")


@pytest.fixture(params=["pickle", "torch zip"])
def hostile(request: pytest.FixtureRequest, marker: Path, tmp_path: Path) -> bytes:
    """Return a pickle that runs code, plain or in torch's zip format."""
    if request.param == "pickle":
        return pickle.dumps(Hostile(marker))
    torch.save({"weight": Hostile(marker)}, tmp_path / "saved.pt")
    return (tmp_path / "saved.pt").read_bytes()
