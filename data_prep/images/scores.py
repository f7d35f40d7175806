"""Numbers about a picture, and the question whether it is taken: built in or from a function of the user's."""

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from data_prep.errors import ConfigError, DataError


def blur(image: Image.Image) -> float:
    """Variance of the Laplacian of the luma; the lower, the more blurred. 0 for a picture without an inside."""
    luma = np.asarray(image.convert("L"), dtype=np.float32)
    if min(luma.shape) < 3:
        return 0.0
    around = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:]
    # Added up in 64 bits, so that the order of the additions does not show.
    return round(float((around - 4 * luma[1:-1, 1:-1]).var(dtype=np.float64)), 6)


def score(names: Sequence[str], image: Image.Image, source: str) -> dict[str, float]:
    """Every named score of an RGB picture.

    ``source`` names the picture in errors. Raises ConfigError for a function that cannot be imported, DataError for one
    that fails or gives no finite number.
    """
    return {name: blur(image) if name == "blur" else _score(name, image, source) for name in names}


def accepts(name: str, facts: Mapping[str, Any], source: str) -> bool:
    """What the predicate says of a dict of facts. Raises as ``score`` does."""
    function = _function(name)
    try:
        return bool(function(dict(facts)))
    except Exception as error:
        raise _failed("predicate", name, source, error) from error


def _score(name: str, image: Image.Image, source: str) -> float:
    function = _function(name)
    try:
        # A copy: what one function draws on it is neither stored nor seen by the next.
        value = float(function(image.copy()))
    except Exception as error:
        raise _failed("scores", name, source, error) from error
    if not math.isfinite(value):
        raise DataError(f"data.select.scores: {name} gave {value} for {source}; a score is a finite number")
    return value


def _failed(setting: str, name: str, source: str, error: Exception) -> DataError:
    shown = " ".join(f"{type(error).__name__}: {error}".split())
    return DataError(f"data.select.{setting}: {name} failed for {source}: {shown}")


@cache
def _function(name: str) -> Callable[[Any], Any]:
    """Import ``package.module:function``, once in a process."""
    module, _, attribute = name.partition(":")
    try:
        function: Callable[[Any], Any] = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a module can fail in any way while it is imported
        shown = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(
            f"data.select: {name} cannot be imported ({shown}); install its package, or put its folder on PYTHONPATH"
        ) from error
    if not callable(function):
        raise ConfigError(f"data.select: {name} is a {type(function).__name__}; name a function")
    return function
