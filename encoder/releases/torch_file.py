"""Read tensors from an untrusted file of ``torch.save``: its size is checked first, and its code is never run."""

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
"""Largest accepted size in bytes of a number, of a tensor's metadata, and of the pickle."""
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def read_tensors(path: Path, required: Shapes, optional: Shapes | None = None) -> dict[str, Tensor]:
    """Read tensors of exactly the ``required`` names and shapes, and of all ``optional`` ones or none of these.

    The tensors are memory-mapped, not copied. Raises ModelError with one line if the file is missing, larger than these
    tensors need, damaged, or holds other names, shapes, code, or numbers that are not finite. Its code is never run.
    """
    allowed = {**required, **(optional or {})}
    _check_container(path, allowed)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} holds code besides tensors, which was not run; get it again from its author"
        ) from error
    except Exception as error:  # the unpickler can raise any error on damaged bytes
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"{path} is damaged ({reason}); get it again") from error
    if not isinstance(loaded, dict) or not all(isinstance(tensor, Tensor) for tensor in loaded.values()):
        raise ModelError(f"{path} is not a state dict (tensors by name); give the file that the trainer saved")
    _check_names(path, loaded, allowed if optional and loaded.keys() & optional.keys() else required)
    for name, tensor in loaded.items():
        _check_tensor(path, name, tensor, allowed[name])
    return loaded


def _check_container(path: Path, allowed: Shapes) -> None:
    """Check the size and the table of contents of the file, which is all that is read of it so far."""
    max_bytes = (
        sum(MAX_NUMBER_BYTES * prod(shape) + MAX_ENTRY_OVERHEAD_BYTES for shape in allowed.values()) + MAX_PICKLE_BYTES
    )
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise ModelError(
                f"{path} has {size:,} bytes, more than the {max_bytes:,} that this base model can need; check --base"
            )
        with ZipFile(path) as file:
            entries = file.infolist()
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror or error}); give the trainer's folder") from error
    except (BadZipFile, ValueError, NotImplementedError) as error:
        raise ModelError(f"{path} is not a complete file of torch.save ({error}); get it again") from error
    compressed = [entry for entry in entries if entry.compress_type != ZIP_STORED]
    pickles = [entry for entry in entries if entry.filename.endswith("data.pkl") and entry.file_size > MAX_PICKLE_BYTES]
    if compressed or pickles or sum(entry.file_size for entry in entries) > max_bytes:
        raise ModelError(f"{path} unpacks to more than its size, which torch.save never writes; get it again")


def _check_names(path: Path, loaded: dict[str, Tensor], expected: Shapes) -> None:
    if mismatched := sorted(map(str, loaded.keys() ^ expected.keys())):
        verb = "lacks" if mismatched[0] in expected else "has"
        raise ModelError(
            f"{path} {verb} {mismatched[0]} and differs in {len(mismatched)} names from what this base model needs"
        )


def _check_tensor(path: Path, name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise ModelError(
            f"{path}: {name} is {tuple(tensor.shape)}, this base model needs {shape}; give the base model "
            "that it was trained on"
        )
    if tensor.layout is not torch.strided or tensor.dtype not in DTYPES:
        raise ModelError(f"{path}: {name} is not a dense tensor of 16-bit or 32-bit floats; get it again")
    if not tensor.isfinite().all():
        raise ModelError(f"{path}: {name} holds numbers that are not finite; get it again")
