"""Choose the square crop of an image, and map it to the stored pixels of files with an EXIF orientation."""

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
from e4t_errors import ConfigError

Size = tuple[int, int]
Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels; right and bottom are exclusive."""

FACE_MARGIN = 1.6
"""Side of the crop relative to the detected face. The Haar detector's square reaches from the brows to the chin and is
1/0.4 eye distances wide; FFHQ keeps four eye distances, which includes hair, neck and some background: 4 x 0.4."""
FACE_DETECTION_SIDE = 640
"""Longer side in pixels to which images are shrunk for face detection. The smallest face that is detected is a twelfth
of the shorter side."""

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
    """Return the largest centered square of an image of ``size``."""
    side = min(size)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    return left, top, left + side, top + side


def random_crop_box(size: Size, key: str) -> Box:
    """Return a largest square whose position depends only on the sample key, so every run chooses the same one."""
    side = min(size)
    offset = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) % (max(size) - side + 1)
    left, top = (offset, 0) if size[0] > size[1] else (0, offset)
    return left, top, left + side, top + side


def expand_to_square(size: Size, box: tuple[float, float, float, float], margin: float = 1.0) -> Box | None:
    """Return the square around a box, whose side is the longer side of the box times ``margin``.

    The square is shifted, and if necessary shrunk, to lie inside the image. Returns None if the box is empty, not
    finite, or outside the image.
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
    """Return the square around the box in the columns ``left, top, right, bottom``, or the centered one."""
    try:
        # Convert via str: float() would accept True and False, and reject None with another exception.
        left, top, right, bottom = (float(str(columns[name])) for name in ("left", "top", "right", "bottom"))
    except (KeyError, ValueError):
        return center_crop_box(size)
    return expand_to_square(size, (left, top, right, bottom)) or center_crop_box(size)


def face_crop_box(image: Image.Image) -> Box:
    """Return the square around the largest frontal face of an upright image, or the centered one without a face.

    Raises ConfigError if OpenCV is not installed.
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
    # Break ties by position: the order in which OpenCV's threads report faces is not deterministic.
    x, y, width, height = max(faces.tolist(), key=lambda face: (face[2] * face[3], face))
    box = (x * scale, y * scale, (x + width) * scale, (y + height) * scale)
    return expand_to_square(image.size, box, FACE_MARGIN) or center_crop_box(image.size)


def crop_box(mode: str, size: Size, record: Record) -> Box:
    """Return the square of the crop modes that need no pixels (box, random, center)."""
    if mode == "box":
        return bbox_crop_box(size, record.columns)
    return random_crop_box(size, record.key) if mode == "random" else center_crop_box(size)


def apply_exif_orientation(image: Image.Image, orientation: int) -> Image.Image:
    """Turn a stored image upright; ``orientation`` is the EXIF value, 1 to 8."""
    return image.transpose(_EXIF_TRANSPOSE[orientation]) if orientation in _EXIF_TRANSPOSE else image


def upright_size(size: Size, orientation: int) -> Size:
    """Return width and height after ``apply_exif_orientation``."""
    return (size[1], size[0]) if orientation in _SWAPS_AXES else size


def to_stored_coords(box: Box, size: Size, orientation: int) -> Box:
    """Map a box in the upright image, whose size is ``size``, to the stored image."""
    left, top, right, bottom = box
    if orientation in _FLIPS_X:
        left, right = size[0] - right, size[0] - left
    if orientation in _FLIPS_Y:
        top, bottom = size[1] - bottom, size[1] - top
    return (top, left, bottom, right) if orientation in _SWAPS_AXES else (left, top, right, bottom)


@cache
def _face_detector(thread_id: int) -> Any:  # noqa: ANN401 - OpenCV is there or not
    """Return the face detector of a thread; a detector has internal buffers and cannot be shared."""
    try:
        cv2 = importlib.import_module("cv2")
    except ImportError as error:
        raise ConfigError("data.crop is face, which needs OpenCV: pip install 'e4t[face]'") from error
    return cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")
