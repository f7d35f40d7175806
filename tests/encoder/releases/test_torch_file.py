"""Reading an untrusted .pt file gives its tensors or a one-line error, and never runs its code."""

import json
import os
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from encoder.errors import ModelError
from encoder.releases.torch_file import MAX_PICKLE_BYTES, read_tensors

SHAPES = {"a.weight": (3, 5), "a.bias": (3,)}


def tensors(**others: Any) -> dict[str, Any]:
    return {name: torch.randn(shape) for name, shape in SHAPES.items()} | others


@pytest.fixture
def refused(tmp_path: Path) -> Callable[[Any], str]:
    """Return the error message for a file with the given content, and check that it is one line."""

    def message(content: Any, **how: Any) -> str:
        path = tmp_path / "file.pt"
        if content is not None:
            path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path, **how)
        with pytest.raises(ModelError) as caught:
            read_tensors(path, SHAPES)
        line = str(caught.value)
        assert "\n" not in line
        assert str(path) in line
        return line

    return message


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_tensors_with_the_required_names_and_shapes_are_read(tmp_path: Path, dtype: torch.dtype) -> None:
    saved = {name: tensor.to(dtype) for name, tensor in tensors().items()}
    torch.save(saved, tmp_path / "file.pt")
    read = read_tensors(tmp_path / "file.pt", SHAPES)
    assert read.keys() == saved.keys()
    assert all(torch.equal(read[name], saved[name]) for name in saved)


def test_either_all_or_no_optional_tensors_are_accepted(tmp_path: Path, refused: Callable[[Any], str]) -> None:
    more = {"b": (2,), "c": (2,)}
    whole = tensors(b=torch.zeros(2), c=torch.zeros(2))
    for saved in (tensors(), whole):
        torch.save(saved, tmp_path / "file.pt")
        assert read_tensors(tmp_path / "file.pt", SHAPES, more).keys() == saved.keys()
    torch.save(tensors(b=torch.zeros(2)), tmp_path / "file.pt")
    with pytest.raises(ModelError, match="lacks c"):
        read_tensors(tmp_path / "file.pt", SHAPES, more)


class Runs:
    """Content of a malicious file: unpickling it would run a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("position", ["instead", "among the tensors"])
def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path, refused: Callable[[Any], str], position: str) -> None:
    trap, sprung = Runs(f"touch {tmp_path / 'ran'}"), tmp_path / "ran"
    assert "was not run" in refused(trap if position == "instead" else tensors(trap=trap))
    assert not sprung.exists()
    torch.load(tmp_path / "file.pt", weights_only=False)
    assert sprung.exists()  # the trap was a real one


def test_code_in_the_legacy_container_is_refused_and_not_run(tmp_path: Path, refused: Callable[..., str]) -> None:
    trap = Runs(f"touch {tmp_path / 'ran'}")
    assert "not a complete file" in refused(trap, _use_new_zipfile_serialization=False)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        (b"", "not a complete file"),
        (json.dumps({"a": 1}).encode(), "not a complete file"),
        ([1, 2], "not a state dict"),
        ({"a.weight": 1, "a.bias": 2}, "not a state dict"),
        ({"a.weight": torch.zeros(3, 5)}, "lacks a.bias"),
        (tensors(another=torch.zeros(1)), "has another"),
        (tensors() | {"a.bias": torch.zeros(4)}, r"a.bias is (4,), this base model needs (3,)"),
        (tensors() | {"a.bias": torch.zeros(3).expand(1, 3)}, "a.bias is (1, 3)"),
        (tensors() | {"a.bias": torch.zeros(3, dtype=torch.int64)}, "not a dense tensor of 16-bit or 32-bit floats"),
        (tensors() | {"a.bias": torch.zeros(3).to_sparse()}, "not a dense tensor of 16-bit or 32-bit floats"),
        (tensors() | {"a.bias": torch.tensor([1.0, float("nan"), 2.0])}, "not finite"),
    ],
)
def test_unexpected_content_is_named_in_the_error(refused: Callable[[Any], str], content: Any, message: str) -> None:
    assert message in refused(content)


def test_a_file_larger_than_its_tensors_is_not_opened(refused: Callable[[Any], str]) -> None:
    assert "more than the" in refused(tensors(padding=torch.zeros(MAX_PICKLE_BYTES)))


def test_a_file_that_unpacks_to_more_than_its_size_is_not_unpacked(
    tmp_path: Path, refused: Callable[[Any], str]
) -> None:
    torch.save(tensors(zeros=torch.zeros(50 * MAX_PICKLE_BYTES)), tmp_path / "large.pt")
    packed = tmp_path / "packed.pt"
    with zipfile.ZipFile(tmp_path / "large.pt") as large, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as small:
        for entry in large.infolist():
            small.writestr(entry.filename, large.read(entry))
    assert packed.stat().st_size < MAX_PICKLE_BYTES
    assert "unpacks to more" in refused(packed.read_bytes())


def saved(tmp_path: Path) -> bytes:
    torch.save(tensors(), tmp_path / "whole.pt")
    return (tmp_path / "whole.pt").read_bytes()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, refused: Callable[[Any], str], share: float) -> None:
    whole = saved(tmp_path)
    assert "not a complete file" in refused(whole[: int(len(whole) * share)])


@pytest.mark.parametrize("seed", range(40))
def test_damaged_bytes_give_the_tensors_or_a_one_line_error(tmp_path: Path, seed: int) -> None:
    rng, damaged = random.Random(seed), bytearray(saved(tmp_path))
    for _ in range(4):
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    (tmp_path / "damaged.pt").write_bytes(damaged)
    try:
        read: dict[str, Tensor] = read_tensors(tmp_path / "damaged.pt", SHAPES)
    except ModelError as error:
        assert "\n" not in str(error)
    else:
        assert {name: tuple(tensor.shape) for name, tensor in read.items()} == SHAPES
