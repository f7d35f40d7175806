"""Numbers about a picture, and the question whether it is taken: built in or from a function of the user's."""

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from data_prep.errors import DataError
from e4t import ConfigError


def blur(image: Image.Image) -> float:
    """Variance of the Laplacian of the luma; the lower, the more blurred. 0 for a picture without an inside."""
    luma = np.asarray(image.convert("L"), dtype=np.float32)
    if min(luma.shape) < 3:
        return 0.0
    neighbors = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:]
    # Added up in 64 bits, so that the order of the additions does not show.
    return round(float((neighbors - 4 * luma[1:-1, 1:-1]).var(dtype=np.float64)), 6)


def compute_scores(names: Sequence[str], image: Image.Image, source: str) -> dict[str, float]:
    """Every named score of an RGB picture.

    ``source`` names the picture in errors. Raises ConfigError for a function that cannot be imported, DataError for one
    that fails or gives no finite number.
    """
    return {name: blur(image) if name == "blur" else _compute_score(name, image, source) for name in names}


def passes_filter(name: str, metadata: Mapping[str, Any], source: str) -> bool:
    """What the predicate says of a dict of facts. Raises as ``score`` does."""
    function = _import_function(name)
    try:
        return bool(function(dict(metadata)))
    except Exception as error:
        raise _function_error("predicate", name, source, error) from error


def _compute_score(name: str, image: Image.Image, source: str) -> float:
    function = _import_function(name)
    try:
        # A copy: what one function draws on it is neither stored nor seen by the next.
        value = float(function(image.copy()))
    except Exception as error:
        raise _function_error("scores", name, source, error) from error
    if not math.isfinite(value):
        raise DataError(f"data.filters.scores: {name} gave {value} for {source}; a score is a finite number")
    return value


def _function_error(setting: str, name: str, source: str, error: Exception) -> DataError:
    details = " ".join(f"{type(error).__name__}: {error}".split())
    return DataError(f"data.filters.{setting}: {name} failed for {source}: {details}")


@cache
def _import_function(name: str) -> Callable[[Any], Any]:
    """Import ``package.module:function``, once in a process."""
    module, _, attribute = name.partition(":")
    try:
        function: Callable[[Any], Any] = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a module can fail in any way while it is imported
        details = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(
            f"data.filters: {name} cannot be imported ({details}); install its package, or put its folder on PYTHONPATH"
        ) from error
    if not callable(function):
        raise ConfigError(f"data.filters: {name} is a {type(function).__name__}; name a function")
    return function
