"""Compute scores of images and apply the user's filter function."""

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from data_prep.errors import DataError
from e4t_errors import ConfigError


def blur(image: Image.Image) -> float:
    """Return the variance of the Laplacian of the luma (lower is blurrier), or 0 if a side has fewer than 3 pixels."""
    luma = np.asarray(image.convert("L"), dtype=np.float32)
    if min(luma.shape) < 3:
        return 0.0
    neighbors = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:]
    # Accumulate in float64, so that the order of the additions does not affect the result.
    return round(float((neighbors - 4 * luma[1:-1, 1:-1]).var(dtype=np.float64)), 6)


def compute_scores(names: Sequence[str], image: Image.Image, source: str) -> dict[str, float]:
    """Compute the named scores of an RGB image.

    ``source`` identifies the image in error messages. Raises ConfigError if a function cannot be imported, and
    DataError if it fails or returns a number that is not finite.
    """
    return {name: blur(image) if name == "blur" else _compute_score(name, image, source) for name in names}


def passes_filter(name: str, metadata: Mapping[str, Any], source: str) -> bool:
    """Return the verdict of the filter function on an image's metadata. Raises as ``compute_scores`` does."""
    function = _import_function(name)
    try:
        return bool(function(dict(metadata)))
    except Exception as error:
        raise _function_error("filter_fn", name, source, error) from error


def _compute_score(name: str, image: Image.Image, source: str) -> float:
    function = _import_function(name)
    try:
        # Pass a copy: a function that draws on the image must not affect the stored image or the next function.
        value = float(function(image.copy()))
    except Exception as error:
        raise _function_error("scores", name, source, error) from error
    if not math.isfinite(value):
        raise DataError(f"data.filters.scores: {name} returned {value} for {source}; a score must be a finite number")
    return value


def _function_error(setting: str, name: str, source: str, error: Exception) -> DataError:
    details = " ".join(f"{type(error).__name__}: {error}".split())
    return DataError(f"data.filters.{setting}: {name} failed for {source}: {details}")


@cache
def _import_function(name: str) -> Callable[[Any], Any]:
    """Import ``package.module:function``; the result is cached for the life of the process."""
    module, _, attribute = name.partition(":")
    try:
        function: Callable[[Any], Any] = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # importing a module can raise anything
        details = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(
            f"data.filters: {name} cannot be imported ({details}); install its package, or put its folder on PYTHONPATH"
        ) from error
    if not callable(function):
        raise ConfigError(f"data.filters: {name} is a {type(function).__name__}, not a function; name a function")
    return function
