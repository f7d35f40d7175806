"""Tests of a registered release behind a real MLflow server and a real scoring server, over HTTP.

Starting both servers, tuning and sampling take about 40 seconds on an idle machine with two cores.
"""

import base64
import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
import yaml
from PIL import Image

from encoder.concepts.concept import Concept
from encoder.model.sampling import seeded_generators
from encoder.pipeline import E4TPipeline
from pipelines.registry.pyfunc_model import MAX_IMAGE_BYTES, MAX_PROMPTS, MAX_STEPS
from pipelines.release.build import make_release
from pipelines.release.registration import promote, register
from tests.bases import SHIPPED
from tests.pipelines.made_run import Trained, made_run, recipe_in
from tests.pipelines.mlflow_server import Server, free_port, wait_for

pytestmark = [pytest.mark.timeout(900)]
TIMEOUT_SECONDS = 300.0
"""Timeout of a response on a busy machine."""
PROMPTS = ["a portrait of *s", "a portrait of *s in a red shirt"]


def to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def png(color: str = "orange", side: int = 64) -> str:
    """Return a base64-encoded PNG for a request."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), color).save(buffer, "PNG")
    return to_base64(buffer.getvalue())


def decompression_bomb() -> str:
    """Return a PNG of a few KB that declares a size of 60000 x 60000 pixels."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(10**6))), (b"IEND", b"")]
    parts = [struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in chunks]
    return to_base64(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


@dataclass
class Service:
    """A scoring server."""

    url: str
    version: Path
    """Folder in which the server stores the version."""

    def predict(self, *rows: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the rows of a successful response."""
        status, text = self.post({"dataframe_records": list(rows)})
        assert status == 200, text[:500]
        predictions: list[dict[str, Any]] = json.loads(text)["predictions"]
        return predictions

    def post(self, body: object) -> tuple[int, str]:
        """Send a request; return status and body of the response."""
        request = Request(f"{self.url}/invocations", json.dumps(body).encode(), {"content-type": "application/json"})  # noqa: S310 - our own server
        try:
            with urlopen(request, timeout=TIMEOUT_SECONDS) as response:  # noqa: S310
                return response.status, response.read().decode()
        except HTTPError as error:
            return error.code, error.read().decode()

    def error_message(self, **row: Any) -> str:
        """Return the message of a rejected request; the server must keep running."""
        status, text = self.post({"dataframe_records": [row]})
        assert 400 <= status < 500, text[:500]
        assert self.is_alive()
        assert "Traceback" not in text
        return str(json.loads(text)["message"])

    def is_alive(self) -> bool:
        try:
            with urlopen(f"{self.url}/ping", timeout=TIMEOUT_SECONDS) as response:  # noqa: S310 - our own server
                return bool(response.status == 200)
        except OSError:
            return False


@pytest.fixture(scope="module")
def service(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Serve the champion of a registry of its own."""
    folder = tmp_path_factory.mktemp("service")
    server, port = Server(folder), free_port()
    with pytest.MonkeyPatch.context() as patch, (folder / "served.log").open("wb") as log:
        patch.setenv("MLFLOW_TRACKING_URI", server.uri)
        patch.setenv("E4T_CACHE", str(folder / "cache"))
        server.start()
        recipe = recipe_in(folder)
        made_run(recipe, trained, 300)
        release = make_release(recipe, folder / "release", "1.0.0", allow_dirty=True)
        promote("faces", str(register(recipe, release)), "champion", Path(recipe.runs))
        command = [
            sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/faces@champion", "--env-manager", "local",
            "--host", "127.0.0.1", "--port", str(port), "--timeout", str(int(TIMEOUT_SECONDS)),
        ]  # fmt: skip
        environment = os.environ | {
            "E4T_BASE": str(SHIPPED), "E4T_DEVICE": "cpu", "OMP_NUM_THREADS": "1",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # MLflow starts uvicorn by its name
        }  # fmt: skip
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)  # noqa: S603 - our own command
        try:
            [index] = (folder / "artifacts").rglob("MLmodel")
            service = Service(f"http://127.0.0.1:{port}", index.parent)
            wait_for(lambda: service.is_alive() or process.poll() is not None, TIMEOUT_SECONDS)
            assert process.poll() is None, Path(log.name).read_text()
            yield service
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            server.kill()


@pytest.fixture(scope="module")
def local(service: Service) -> E4TPipeline:
    """Open the same release in this process."""
    return E4TPipeline.from_pretrained(service.version / "artifacts" / "release", base=str(SHIPPED), device="cpu")


def decode_png(data: str) -> Image.Image:
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert image.format == "PNG"
    return image


def mean_difference(first: Image.Image, second: Image.Image) -> float:
    """Return the mean absolute difference of two images, in levels of 255."""
    return float(np.abs(np.asarray(first, dtype=float) - np.asarray(second, dtype=float)).mean())


def test_a_request_returns_images_and_a_concept_that_generates_the_same_images_locally(
    service: Service, local: E4TPipeline
) -> None:
    [row] = service.predict({"image": png(), "prompts": PROMPTS, "steps": 1, "seed": 3, "guidance_scale": 2.0})
    images = [decode_png(data) for data in row["images"]]
    assert [image.size for image in images] == [(64, 64)] * 2
    assert images[0].tobytes() != images[1].tobytes()
    concept = Concept.from_bytes(base64.b64decode(row["concept"]))
    assert concept.release == "faces 1.0.0"
    local.load_concept(concept)
    expected = local(PROMPTS, guidance_scale=2.0, generator=seeded_generators(3, len(PROMPTS)))
    assert all(
        mean_difference(*pair) < 1 for pair in zip(expected, images, strict=True)
    )  # another process adds in another order
    assert mean_difference(*images) > 5


def test_steps_seed_and_guidance_scale_default_to_those_of_the_release(service: Service) -> None:
    [row] = service.predict({"image": png(), "prompts": PROMPTS[:1]})
    assert Concept.from_bytes(base64.b64decode(row["concept"])).settings["steps"] == 1
    assert len(row["images"]) == 1


def test_four_concurrent_requests_get_their_own_responses(service: Service) -> None:
    colors = ["red", "green", "blue", "white"]

    def predict_color(color: str) -> dict[str, Any]:
        [row] = service.predict({"image": png(color), "prompts": PROMPTS[:1], "steps": 1, "seed": 1})
        return row

    with ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(predict_color, colors))
    assert len({row["concept"] for row in rows}) == 4
    assert rows[2] == predict_color("blue"), "concurrent requests do not affect the result"


@pytest.mark.parametrize(
    ("invalid", "message"),
    [
        ({"image": to_base64(b"x" * (MAX_IMAGE_BYTES + 1))}, "the image has 20,000,001 bytes; the limit is 20,000,000"),
        ({"image": decompression_bomb()}, "the image cannot be read as an image"),
        ({"image": to_base64(b"not an image")}, "the image cannot be read as an image"),
        ({"image": to_base64(b"%!PS-Adobe-3.0 EPSF-3.0\n")}, "the image cannot be read as an image"),
        ({"image": ""}, "the image cannot be read as an image"),
        ({"prompts": []}, f"give 1 to {MAX_PROMPTS} prompts"),
        ({"prompts": ["a portrait of *s"] * (MAX_PROMPTS + 1)}, f"give 1 to {MAX_PROMPTS} prompts"),
        ({"steps": -1}, f"steps must be from 0 to {MAX_STEPS}"),
        ({"steps": MAX_STEPS + 1}, f"steps must be from 0 to {MAX_STEPS}"),
        ({"seed": -1}, "seed must be from 0"),
        ({"seed": 2**31}, "seed must be from 0"),
        ({"guidance_scale": 0.5}, "guidance_scale must be from 1 to 30"),
        ({"guidance_scale": 1e9}, "guidance_scale must be from 1 to 30"),
    ],
)
def test_values_out_of_range_are_rejected_in_one_line(service: Service, invalid: dict[str, Any], message: str) -> None:
    error = service.error_message(**{"image": png(), "prompts": PROMPTS[:1], "steps": 1} | invalid)
    assert error.startswith(message)
    assert "\n" not in error


@pytest.mark.parametrize(
    "invalid",
    [
        {"steps": "many"},
        {"seed": [1]},
        {"guidance_scale": "high"},
        {"prompts": "a portrait of *s"},
        {"prompts": [1, 2]},
        {"prompts": None},
        {"image": 5},
        {"image": None},
        {"image": ["a", "b"]},
    ],
)
def test_wrong_types_are_rejected(service: Service, invalid: dict[str, Any]) -> None:
    service.error_message(**{"image": png(), "prompts": PROMPTS[:1], "steps": 1} | invalid)


@pytest.mark.parametrize("missing", ["image", "prompts"])
def test_a_missing_column_is_reported(service: Service, missing: str) -> None:
    row = {"image": png(), "prompts": PROMPTS[:1]}
    del row[missing]
    assert missing in service.error_message(**row)


@pytest.mark.parametrize("body", [[], {}, {"dataframe_records": []}, {"dataframe_records": 5}, "text", {"rows": [1]}])
def test_an_invalid_body_is_rejected(service: Service, body: object) -> None:
    status, text = service.post(body)
    assert 400 <= status < 500, text
    assert service.is_alive()


def test_a_client_that_disconnects_does_not_affect_the_next_one(service: Service) -> None:
    body = json.dumps({"dataframe_records": [{"image": png(), "prompts": PROMPTS, "steps": 1}]}).encode()
    host, port = service.url.removeprefix("http://").split(":")
    head = f"POST /invocations HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    for part in (body, body[:100]):  # disconnect during the work, and during the request
        with socket.create_connection((host, int(port)), timeout=TIMEOUT_SECONDS) as connection:
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + part)
    [row] = service.predict({"image": png(), "prompts": PROMPTS[:1], "steps": 1})
    assert decode_png(row["images"][0]).size == (64, 64)


def test_a_version_contains_release_and_code_but_no_base_model_and_no_pickle(service: Service) -> None:
    files = {str(path.relative_to(service.version)): path for path in service.version.rglob("*") if path.is_file()}
    weights = {name for name in files if name.endswith((".safetensors", ".pkl", ".pickle", ".pt", ".pth", ".bin"))}
    folder = "artifacts/release"
    assert weights == {f"{folder}/domain_encoder/model.safetensors", f"{folder}/weight_offsets/model.safetensors"}
    assert "model_code.py" in files, "models from code"
    flavor = yaml.safe_load(files["MLmodel"].read_text())["flavors"]["python_function"]
    assert (Path(flavor["model_code_path"]).name, flavor.get("python_model")) == ("model_code.py", None)
    release_files = {str(path.relative_to(service.version / folder)) for path in (service.version / folder).rglob("*")}
    assert {"README.md", "index.json", "provenance.json"} <= release_files
    assert files["requirements.txt"].read_text().splitlines()[1].startswith("e4t==")
