"""Serve a release as an MLflow model: from an image and prompts, each row gets PNG images and a concept."""

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
"""Environment variables of the serving process: location of the base model (overrides the release's), and device."""
MAX_IMAGE_BYTES, MAX_PROMPTS, MAX_STEPS, MAX_QUEUED = 20_000_000, 16, 100, 8
"""Limits of a request (image bytes, prompts, tuning steps) and of queued requests; larger requests are refused."""
SIGNATURE = ModelSignature(
    inputs=Schema(
        [
            ColSpec(DataType.binary, "image"),
            ColSpec(Array(DataType.string), "prompts"),
            ColSpec(DataType.long, "steps", required=False),
            ColSpec(DataType.long, "seed", required=False),
            ColSpec(DataType.double, "guidance_scale", required=False),
        ]
    ),
    outputs=Schema([ColSpec(Array(DataType.binary), "images"), ColSpec(DataType.binary, "concept")]),
)


class BadRequest(MlflowException):
    """An invalid request, answered in one line; MLflow's own message repeats the whole request over several lines."""

    def __init__(self, message: str, code: int = INVALID_PARAMETER_VALUE) -> None:
        super().__init__(message, code)
        self._message = message

    def serialize_as_json(self) -> str:
        """Return the body of the response."""
        return json.dumps({"error_code": self.error_code, "message": self._message})


class ServedRelease(PythonModel):
    """Tune on the image of each request and sample its prompts, one request at a time."""

    images_output = "images"
    """Name of the output column that holds the PNG images."""

    def load_context(self, context: "PythonModelContext") -> None:
        """Open the release in the version's artifacts; the base model is loaded from elsewhere."""
        from encoder.pipeline import E4TPipeline

        release, base = context.artifacts[RELEASE_FOLDER], os.environ.get(BASE_ENV)
        self._pipe = E4TPipeline.from_pretrained(release, base=base, device=os.environ.get(DEVICE_ENV))
        self._lock = threading.Lock()
        self._queue_slots = threading.BoundedSemaphore(MAX_QUEUED)

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201 - MLflow would derive a signature from type hints
        """Return for each row ``images`` (a PNG per prompt) and ``concept`` (bytes for Concept.from_bytes)."""
        rows = [_Request(row) for row in model_input.to_dict("records")]
        with self._exclusive():
            outputs = [row.run(self._pipe) for row in rows]
        return pd.DataFrame([{self.images_output: images, "concept": concept} for images, concept in outputs])

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Hold the model, which holds one concept at a time. Raises BadRequest if too many requests are queued."""
        if not self._queue_slots.acquire(blocking=False):
            raise BadRequest(f"busy: {MAX_QUEUED} requests are queued already; try again later", RESOURCE_EXHAUSTED)
        try:
            with self._lock:
                yield
        finally:
            self._queue_slots.release()


class _Request:
    """A validated row of a request. Raises BadRequest, which MLflow answers with status 400, if it is invalid."""

    def __init__(self, row: dict[str, Any]) -> None:
        self.image = _decode_image(row["image"])
        self.prompts = [str(prompt) for prompt in row["prompts"]]
        _require(
            1 <= len(self.prompts) <= MAX_PROMPTS,
            f"give 1 to {MAX_PROMPTS} prompts with *s as placeholder of the concept",
        )
        # Versions registered before the rename have the input `guidance`.
        aliases = {"steps": "steps", "seed": "seed", "guidance": "guidance_scale", "guidance_scale": "guidance_scale"}
        options = {name: row[key] for key, name in aliases.items() if not pd.isna(row.get(key))}
        self.settings: dict[str, Any] = {name: int(options[name]) for name in ("steps", "seed") if name in options}
        _require(0 <= self.settings.get("steps", 0) <= MAX_STEPS, f"steps must be from 0 to {MAX_STEPS}")
        _require(0 <= self.settings.get("seed", 0) < 2**31, "seed must be from 0 to 2147483647")
        self.guidance_scale = options.get("guidance_scale")
        _require(self.guidance_scale is None or 1 <= self.guidance_scale <= 30, "guidance_scale must be from 1 to 30")

    def run(self, pipe: "E4TPipeline") -> tuple[list[bytes], bytes]:
        """Tune and sample; return the PNG images and the concept."""
        from encoder.model.sampling import seeded_generators

        concept = pipe.tune(self.image, **self.settings)
        generators = seeded_generators(self.settings.get("seed", 0), len(self.prompts))
        images = pipe(self.prompts, generator=generators, guidance_scale=self.guidance_scale)
        pipe.unload_concept()
        return [_encode_png(image) for image in images], concept.to_bytes()


def _decode_image(data: bytes) -> "Image.Image":
    from encoder.errors import ModelError
    from encoder.images import open_image

    _require(len(data) <= MAX_IMAGE_BYTES, f"the image has {len(data):,} bytes; the limit is {MAX_IMAGE_BYTES:,}")
    try:
        return open_image(io.BytesIO(data), "the image")
    except ModelError as error:
        raise BadRequest(str(error)) from error


def _require(condition: bool, message: str) -> None:  # noqa: FBT001
    if not condition:
        raise BadRequest(message)


def _encode_png(image: "Image.Image") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
