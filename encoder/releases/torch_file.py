"""Tensors of a file that ``torch.save`` wrote and somebody sent: bounded before it is read, and never run."""

import pickle
from collections.abc import Mapping
from math import prod
from pathlib import Path
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import torch
from torch import Tensor

from encoder.errors import ModelError

Shapes = Mapping[str, tuple[int, ...]]
MAX_NUMBER_BYTES, MAX_ENTRY_OVERHEAD_BYTES, MAX_PICKLE_BYTES = 4, 2**11, 2**20
"""Most bytes of a number, of what a file has beside the numbers of a tensor, and of its pickle."""
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def read_tensors(path: Path, required: Shapes, optional: Shapes | None = None) -> dict[str, Tensor]:
    """Tensors of exactly these names and shapes, ``optional`` ones all or none; mapped into memory, not copied.

    Raises ModelError with one line if the file is missing, larger than they need, damaged, holds anything but finite
    numbers under these names, or code. No code of it is ever run.
    """
    allowed = {**required, **(optional or {})}
    _check_container(path, allowed)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise ModelError(f"{path} holds more than tensors, which was not run; get it again from its author") from error
    except Exception as error:  # damaged bytes make the unpickler raise anything
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"{path} is damaged ({reason}); get it again") from error
    if not isinstance(found, dict) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise ModelError(f"{path} is no state dict, tensors by name; give the file that the trainer saved")
    _check_names(path, found, allowed if optional and found.keys() & optional.keys() else required)
    for name, tensor in found.items():
        _check_tensor(path, name, tensor, allowed[name])
    return found


def _check_container(path: Path, allowed: Shapes) -> None:
    """Whole, plain, and no larger than these tensors: so far only its size and its table of contents are read."""
    max_bytes = (
        sum(MAX_NUMBER_BYTES * prod(shape) + MAX_ENTRY_OVERHEAD_BYTES for shape in allowed.values()) + MAX_PICKLE_BYTES
    )
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise ModelError(
                f"{path} has {size:,} bytes, more than the {max_bytes:,} that this base can need; check --base"
            )
        with ZipFile(path) as file:
            entries = file.infolist()
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror or error}); give the trainer's folder") from error
    except (BadZipFile, ValueError, NotImplementedError) as error:
        raise ModelError(f"{path} is no whole file of torch.save ({error}); get it again") from error
    compressed = [entry for entry in entries if entry.compress_type != ZIP_STORED]
    pickles = [entry for entry in entries if entry.filename.endswith("data.pkl") and entry.file_size > MAX_PICKLE_BYTES]
    if compressed or pickles or sum(entry.file_size for entry in entries) > max_bytes:
        raise ModelError(f"{path} unpacks to more than its size, which torch.save never writes; get it again")


def _check_names(path: Path, found: dict[str, Tensor], expected: Shapes) -> None:
    if mismatched := sorted(map(str, found.keys() ^ expected.keys())):
        verb = "lacks" if mismatched[0] in expected else "has"
        raise ModelError(
            f"{path} {verb} {mismatched[0]} and differs in {len(mismatched)} names from what this base needs"
        )


def _check_tensor(path: Path, name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise ModelError(f"{path}: {name} is {tuple(tensor.shape)}, this base needs {shape}; give the base of its own")
    if tensor.layout is not torch.strided or tensor.dtype not in DTYPES:
        raise ModelError(f"{path}: {name} holds no plain numbers of 16 or 32 bits; get it again")
    if not tensor.isfinite().all():
        raise ModelError(f"{path}: {name} holds numbers that are not finite; get it again")
