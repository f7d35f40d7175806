"""Files of somebody who means harm: whoever unpickles them, or runs their code, leaves a mark."""

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """What the hostile files write when they run."""
    return tmp_path / "it-ran"


class Hostile:
    """Unpickled, it writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., int], tuple[Path, str]]:
        return Path.write_text, (self.marker, "unpickled")


@pytest.fixture(params=["pickle", "zip of torch"])
def hostile(request: pytest.FixtureRequest, marker: Path, tmp_path: Path) -> bytes:
    """A pickle that runs, plain or as torch writes it."""
    if request.param == "pickle":
        return pickle.dumps(Hostile(marker))
    torch.save({"weight": Hostile(marker)}, tmp_path / "saved.pt")
    return (tmp_path / "saved.pt").read_bytes()
