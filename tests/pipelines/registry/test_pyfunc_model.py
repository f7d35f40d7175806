"""A registered release behind the real MLflow server and the real scoring server, over HTTP.

Starting both, tuning and painting take about 40 seconds together on an idle machine of two cores.
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
SECONDS = 300.0
"""For an answer: the machine may be busy."""
PROMPTS = ["a portrait of *s", "a portrait of *s in a red shirt"]


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def png(colour: str = "orange", side: int = 64) -> str:
    """A picture as a request has it."""
    held = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(held, "PNG")
    return encoded(held.getvalue())


def bomb() -> str:
    """A PNG of a few KB that says that it is 60000 pixels wide and high."""
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(10**6))), (b"IEND", b"")]
    parts = [struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in chunks]
    return encoded(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


@dataclass
class Service:
    """A scoring server."""

    url: str
    version: Path
    """Where the server keeps it."""

    def answer(self, *rows: dict[str, Any]) -> list[dict[str, Any]]:
        """Rows of an answer that is right."""
        status, said = self.post({"dataframe_records": list(rows)})
        assert status == 200, said[:500]
        found: list[dict[str, Any]] = json.loads(said)["predictions"]
        return found

    def post(self, body: object) -> tuple[int, str]:
        """Status and text of whatever comes back."""
        request = Request(f"{self.url}/invocations", json.dumps(body).encode(), {"content-type": "application/json"})  # noqa: S310 - our own server
        try:
            with urlopen(request, timeout=SECONDS) as answer:  # noqa: S310
                return answer.status, answer.read().decode()
        except HTTPError as error:
            return error.code, error.read().decode()

    def refusal(self, **row: Any) -> str:
        """What is said of a request that is refused; the server goes on."""
        status, said = self.post({"dataframe_records": [row]})
        assert 400 <= status < 500, said[:500]
        assert self.lives()
        assert "Traceback" not in said
        return str(json.loads(said)["message"])

    def lives(self) -> bool:
        try:
            with urlopen(f"{self.url}/ping", timeout=SECONDS) as answer:  # noqa: S310 - our own server
                return bool(answer.status == 200)
        except OSError:
            return False


@pytest.fixture(scope="module")
def service(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The champion of a registry on a server of its own."""
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
            "--host", "127.0.0.1", "--port", str(port), "--timeout", str(int(SECONDS)),
        ]  # fmt: skip
        environment = os.environ | {
            "E4T_BASE": str(SHIPPED), "E4T_DEVICE": "cpu", "OMP_NUM_THREADS": "1",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # MLflow starts uvicorn by its name
        }  # fmt: skip
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)  # noqa: S603 - our own command
        try:
            [index] = (folder / "artifacts").rglob("MLmodel")
            service = Service(f"http://127.0.0.1:{port}", index.parent)
            wait_for(lambda: service.lives() or process.poll() is not None, SECONDS)
            assert process.poll() is None, Path(log.name).read_text()
            yield service
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            server.kill()


@pytest.fixture(scope="module")
def local(service: Service) -> E4TPipeline:
    """The same release, opened here."""
    return E4TPipeline.from_pretrained(service.version / "artifacts" / "release", base=str(SHIPPED), device="cpu")


def opened(picture: str) -> Image.Image:
    image = Image.open(io.BytesIO(base64.b64decode(picture)))
    assert image.format == "PNG"
    return image


def distance(one: Image.Image, other: Image.Image) -> float:
    """Mean difference of two pictures, in levels of 255."""
    first, second = (np.asarray(image, dtype=float) for image in (one, other))
    return float(np.abs(first - second).mean())


def test_a_picture_and_prompts_become_pictures_and_a_concept_that_paints_the_same_here(
    service: Service, local: E4TPipeline
) -> None:
    [row] = service.answer({"image": png(), "prompts": PROMPTS, "steps": 1, "seed": 3, "guidance": 2.0})
    pictures = [opened(picture) for picture in row["pictures"]]
    assert [picture.size for picture in pictures] == [(64, 64)] * 2
    assert pictures[0].tobytes() != pictures[1].tobytes()
    concept = Concept.from_bytes(base64.b64decode(row["concept"]))
    assert concept.release == "faces 1.0.0"
    local.load_concept(concept)
    again = local(PROMPTS, guidance_scale=2.0, generator=seeded_generators(3, len(PROMPTS)))
    assert all(
        distance(*pair) < 1 for pair in zip(again, pictures, strict=True)
    )  # another process sums in another order
    assert distance(*pictures) > 5


def test_steps_seed_and_guidance_are_the_releases_own_unless_given(service: Service) -> None:
    [row] = service.answer({"image": png(), "prompts": PROMPTS[:1]})
    assert Concept.from_bytes(base64.b64decode(row["concept"])).settings["steps"] == 1
    assert len(row["pictures"]) == 1


def test_four_at_once_are_all_right_and_each_gets_its_own(service: Service) -> None:
    colours = ["red", "green", "blue", "white"]

    def asked(colour: str) -> dict[str, Any]:
        [row] = service.answer({"image": png(colour), "prompts": PROMPTS[:1], "steps": 1, "seed": 1})
        return row

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(asked, colours))
    assert len({row["concept"] for row in together}) == 4
    assert together[2] == asked("blue"), "alone as in company"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"image": encoded(b"x" * (MAX_IMAGE_BYTES + 1))}, "the picture has 20,000,001 bytes; at most 20,000,000"),
        ({"image": bomb()}, "the picture cannot be read as an image"),
        ({"image": encoded(b"no picture at all")}, "the picture cannot be read as an image"),
        ({"image": encoded(b"%!PS-Adobe-3.0 EPSF-3.0\n")}, "the picture cannot be read as an image"),
        ({"image": ""}, "the picture cannot be read as an image"),
        ({"prompts": []}, f"give 1 to {MAX_PROMPTS} prompts"),
        ({"prompts": ["a portrait of *s"] * (MAX_PROMPTS + 1)}, f"give 1 to {MAX_PROMPTS} prompts"),
        ({"steps": -1}, f"steps must be from 0 to {MAX_STEPS}"),
        ({"steps": MAX_STEPS + 1}, f"steps must be from 0 to {MAX_STEPS}"),
        ({"seed": -1}, "seed must be from 0"),
        ({"seed": 2**31}, "seed must be from 0"),
        ({"guidance": 0.5}, "guidance must be from 1 to 30"),
        ({"guidance": 1e9}, "guidance must be from 1 to 30"),
    ],
)
def test_what_is_out_of_range_is_one_line_and_the_server_goes_on(
    service: Service, wrong: dict[str, Any], said: str
) -> None:
    message = service.refusal(**{"image": png(), "prompts": PROMPTS[:1], "steps": 1} | wrong)
    assert message.startswith(said)
    assert "\n" not in message


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": "many"},
        {"seed": [1]},
        {"guidance": "high"},
        {"prompts": "a portrait of *s"},
        {"prompts": [1, 2]},
        {"prompts": None},
        {"image": 5},
        {"image": None},
        {"image": ["a", "b"]},
    ],
)
def test_wrong_types_are_refused_and_the_server_goes_on(service: Service, wrong: dict[str, Any]) -> None:
    service.refusal(**{"image": png(), "prompts": PROMPTS[:1], "steps": 1} | wrong)


@pytest.mark.parametrize("missing", ["image", "prompts"])
def test_a_missing_column_is_named(service: Service, missing: str) -> None:
    row = {"image": png(), "prompts": PROMPTS[:1]}
    del row[missing]
    assert missing in service.refusal(**row)


@pytest.mark.parametrize("body", [[], {}, {"dataframe_records": []}, {"dataframe_records": 5}, "text", {"rows": [1]}])
def test_what_is_no_request_is_refused_and_the_server_goes_on(service: Service, body: object) -> None:
    status, said = service.post(body)
    assert 400 <= status < 500, said
    assert service.lives()


def test_a_client_that_goes_away_costs_the_next_one_nothing(service: Service) -> None:
    body = json.dumps({"dataframe_records": [{"image": png(), "prompts": PROMPTS, "steps": 1}]}).encode()
    host, port = service.url.removeprefix("http://").split(":")
    head = f"POST /invocations HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    for sent in (body, body[:100]):  # in the middle of the work, and of the request
        with socket.create_connection((host, int(port)), timeout=SECONDS) as connection:
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + sent)
    [row] = service.answer({"image": png(), "prompts": PROMPTS[:1], "steps": 1})
    assert opened(row["pictures"][0]).size == (64, 64)


def test_a_version_holds_the_release_and_code_and_nothing_of_the_base_and_no_pickle(service: Service) -> None:
    files = {str(path.relative_to(service.version)): path for path in service.version.rglob("*") if path.is_file()}
    weights = {name for name in files if name.endswith((".safetensors", ".pkl", ".pickle", ".pt", ".pth", ".bin"))}
    inside = "artifacts/release"
    assert weights == {f"{inside}/domain_encoder/model.safetensors", f"{inside}/weight_offsets/model.safetensors"}
    assert "served.py" in files, "models from code"
    flavour = yaml.safe_load(files["MLmodel"].read_text())["flavors"]["python_function"]
    assert (Path(flavour["model_code_path"]).name, flavour.get("python_model")) == ("served.py", None)
    ours = {str(path.relative_to(service.version / inside)) for path in (service.version / inside).rglob("*")}
    assert {"README.md", "index.json", "provenance.json"} <= ours
    assert files["requirements.txt"].read_text().splitlines()[1].startswith("e4t==")
