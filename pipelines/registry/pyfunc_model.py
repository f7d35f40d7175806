"""A release as an MLflow model: a picture and prompts in, PNG pictures and the concept out."""

import io
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_EXHAUSTED
from mlflow.pyfunc.model import PythonModel
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array

from pipelines.registry.resolve import RELEASE_FOLDER

if TYPE_CHECKING:
    from mlflow.pyfunc.model import PythonModelContext
    from PIL import Image

    from encoder.pipeline import E4TPipeline

BASE_ENV, DEVICE_ENV = "E4T_BASE", "E4T_DEVICE"
"""Variables of the serving process: where the base model is if not where the release says, and what computes."""
MAX_IMAGE_BYTES, MAX_PROMPTS, MAX_STEPS, MAX_QUEUED = 20_000_000, 16, 100, 8
"""Bytes of a picture, prompts and tuning steps of a request, and requests at once; beyond them a request is refused."""
SIGNATURE = ModelSignature(
    inputs=Schema(
        [
            ColSpec(DataType.binary, "image"),
            ColSpec(Array(DataType.string), "prompts"),
            ColSpec(DataType.long, "steps", required=False),
            ColSpec(DataType.long, "seed", required=False),
            ColSpec(DataType.double, "guidance", required=False),
        ]
    ),
    outputs=Schema([ColSpec(Array(DataType.binary), "pictures"), ColSpec(DataType.binary, "concept")]),
)


class BadRequest(MlflowException):
    """A request that is not answered: MLflow would say the whole request again, over several lines."""

    def __init__(self, message: str, code: int = INVALID_PARAMETER_VALUE) -> None:
        super().__init__(message, code)
        self._message = message

    def serialize_as_json(self) -> str:
        """What the client gets."""
        return json.dumps({"error_code": self.error_code, "message": self._message})


class ServedRelease(PythonModel):
    """Tunes on each request's picture and paints its prompts, one request after the other."""

    def load_context(self, context: "PythonModelContext") -> None:
        """Open the release that lies in the version, over its base model, which does not."""
        from encoder.pipeline import E4TPipeline

        release, base = context.artifacts[RELEASE_FOLDER], os.environ.get(BASE_ENV)
        self._pipe = E4TPipeline.from_pretrained(release, base=base, device=os.environ.get(DEVICE_ENV))
        self._lock = threading.Lock()
        self._queue_slots = threading.BoundedSemaphore(MAX_QUEUED)

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201 - MLflow would take hints for a signature
        """For each row ``pictures``, a PNG a prompt, and ``concept``, a safetensors file (Concept.from_bytes)."""
        rows = [_Request(row) for row in model_input.to_dict("records")]
        with self._exclusive():
            answers = [row.run(self._pipe) for row in rows]
        return pd.DataFrame(answers)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """One concept at a time is in the model; a queue that grows without bound helps nobody."""
        if not self._queue_slots.acquire(blocking=False):
            raise BadRequest("busy: as many requests wait as may; try again later", RESOURCE_EXHAUSTED)
        try:
            with self._lock:
                yield
        finally:
            self._queue_slots.release()


class _Request:
    """A row, checked before anything is computed. Raises what MLflow answers as 400, in one line."""

    def __init__(self, row: dict[str, Any]) -> None:
        self.image = _decode_image(row["image"])
        self.prompts = [str(prompt) for prompt in row["prompts"]]
        _require(1 <= len(self.prompts) <= MAX_PROMPTS, f"give 1 to {MAX_PROMPTS} prompts, with *s for the concept")
        given = {key: row[key] for key in ("steps", "seed", "guidance") if row.get(key) is not None}
        given = {key: value for key, value in given.items() if not pd.isna(value)}
        self.settings: dict[str, Any] = {key: int(given[key]) for key in ("steps", "seed") if key in given}
        _require(0 <= self.settings.get("steps", 0) <= MAX_STEPS, f"steps must be from 0 to {MAX_STEPS}")
        _require(0 <= self.settings.get("seed", 0) < 2**31, "seed must be from 0 to 2147483647")
        self.guidance_scale = given.get("guidance")
        _require(self.guidance_scale is None or 1 <= self.guidance_scale <= 30, "guidance must be from 1 to 30")

    def run(self, pipe: "E4TPipeline") -> dict[str, Any]:
        """A row of the answer."""
        concept = pipe.tune(self.image, **self.settings)
        images = pipe(self.prompts, seed=self.settings.get("seed", 0), guidance_scale=self.guidance_scale)
        pipe.unload_concept()
        return {"pictures": [_png(image) for image in images], "concept": concept.to_bytes()}


def _decode_image(data: bytes) -> "Image.Image":
    from encoder.errors import ModelError
    from encoder.images import open_image

    _require(
        len(data) <= MAX_IMAGE_BYTES, f"the picture has {len(data):,} bytes; at most {MAX_IMAGE_BYTES:,} are taken"
    )
    try:
        return open_image(io.BytesIO(data), "the picture")
    except ModelError as error:
        raise BadRequest(str(error)) from error


def _require(condition: bool, message: str) -> None:  # noqa: FBT001
    if not condition:
        raise BadRequest(message)


def _png(image: "Image.Image") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
