"""Which square of a picture is kept, and where it lies in a file that stores the picture on its side."""

import hashlib
import importlib
import math
import threading
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from data_prep.records import Record, Scalar
from e4t import ConfigError

Size = tuple[int, int]
Box = tuple[int, int, int, int]
"""Left, top, right, bottom; right and bottom are the first pixels outside."""

FACE_MARGIN = 1.6
"""Haar's square ends at the brows and the chin, and the eyes are 0.4 of it apart. FFHQ keeps four eye distances, which
is hair, neck and some background: 4 x 0.4."""
FACE_DETECTION_SIDE = 640
"""Faces are looked for in a picture shrunk to this; the smallest that counts is a twelfth of its shorter side."""

_EXIF_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_FLIPS_X, _FLIPS_Y, _SWAPS_AXES = (2, 3, 6, 7), (3, 4, 7, 8), (5, 6, 7, 8)


def center_crop_box(size: Size) -> Box:
    """The largest square in the middle of a picture of ``size``."""
    side = min(size)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    return left, top, left + side, top + side


def random_crop_box(size: Size, key: str) -> Box:
    """A largest square whose place the key decides: the same in every run, whatever else is in the set."""
    side = min(size)
    offset = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) % (max(size) - side + 1)
    left, top = (offset, 0) if size[0] > size[1] else (0, offset)
    return left, top, left + side, top + side


def expand_to_square(size: Size, box: tuple[float, float, float, float], margin: float = 1.0) -> Box | None:
    """The square about a box: as wide as its longer side times ``margin``, moved into the picture, at most as large.

    It contains the box if the picture has the room. None for a box that is not one, or lies outside.
    """
    left, top, right, bottom = box
    if not all(math.isfinite(edge) for edge in box) or right <= left or bottom <= top:
        return None
    if right <= 0 or bottom <= 0 or left >= size[0] or top >= size[1]:
        return None
    left, top, right, bottom = math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom)
    side = min(math.ceil(max(right - left, bottom - top) * margin), *size)
    x = min(max((left + right - side) // 2, 0), size[0] - side)
    y = min(max((top + bottom - side) // 2, 0), size[1] - side)
    return x, y, x + side, y + side


def bbox_crop_box(size: Size, columns: Mapping[str, Scalar]) -> Box:
    """The square about the box in the columns ``left, top, right, bottom``; the middle if they hold none."""
    try:
        # By way of text, in which None, True and False are no numbers.
        left, top, right, bottom = (float(str(columns[name])) for name in ("left", "top", "right", "bottom"))
    except (KeyError, ValueError):
        return center_crop_box(size)
    return expand_to_square(size, (left, top, right, bottom)) or center_crop_box(size)


def face_crop_box(image: Image.Image) -> Box:
    """The square about the largest face that looks at the camera in an upright picture; the middle if there is none.

    Raises ConfigError without OpenCV.
    """
    scale = max(1.0, max(image.size) / FACE_DETECTION_SIDE)
    gray = image.convert("L")
    gray.thumbnail((FACE_DETECTION_SIDE, FACE_DETECTION_SIDE))
    min_size = max(24, min(gray.size) // 12)
    faces = _face_detector(threading.get_ident()).detectMultiScale(
        np.asarray(gray), scaleFactor=1.1, minNeighbors=5, minSize=(min_size, min_size)
    )
    if not len(faces):
        return center_crop_box(image.size)
    # Ties by place, so that the order in which OpenCV's threads report does not matter.
    x, y, width, height = max(faces.tolist(), key=lambda face: (face[2] * face[3], face))
    box = (x * scale, y * scale, (x + width) * scale, (y + height) * scale)
    return expand_to_square(image.size, box, FACE_MARGIN) or center_crop_box(image.size)


def crop_box(mode: str, size: Size, record: Record) -> Box:
    """The square of the crop modes that need no pixels: box, random, else the middle."""
    if mode == "box":
        return bbox_crop_box(size, record.columns)
    return random_crop_box(size, record.key) if mode == "random" else center_crop_box(size)


def apply_exif_orientation(image: Image.Image, orientation: int) -> Image.Image:
    """Upright, from how the file stores it; ``orientation`` is EXIF's 1 to 8."""
    return image.transpose(_EXIF_TRANSPOSE[orientation]) if orientation in _EXIF_TRANSPOSE else image


def upright_size(size: Size, orientation: int) -> Size:
    """Width and height of ``turned``."""
    return (size[1], size[0]) if orientation in _SWAPS_AXES else size


def to_stored_coords(box: Box, size: Size, orientation: int) -> Box:
    """Where a box of the upright picture, whose size is ``upright``, lies in the stored one."""
    left, top, right, bottom = box
    if orientation in _FLIPS_X:
        left, right = size[0] - right, size[0] - left
    if orientation in _FLIPS_Y:
        top, bottom = size[1] - bottom, size[1] - top
    return (top, left, bottom, right) if orientation in _SWAPS_AXES else (left, top, right, bottom)


@cache
def _face_detector(thread_id: int) -> Any:  # noqa: ANN401 - OpenCV is there or not
    """One for each thread: a detector works in buffers of its own."""
    try:
        cv2 = importlib.import_module("cv2")
    except ImportError as error:
        raise ConfigError("data.crop is face, which needs OpenCV: pip install 'e4t[face]'") from error
    return cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")
