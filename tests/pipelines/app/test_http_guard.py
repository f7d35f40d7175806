"""Which requests the server answers and which it rejects."""

import json
from http.client import HTTPConnection
from pathlib import Path

import httpx
import pytest

from pipelines.app.http_guard import MAX_IMAGE_BYTES
from tests.pipelines.app.served import RELEASE

ROOT = RELEASE.parents[1]


@pytest.fixture
def client(address: str) -> httpx.Client:
    return httpx.Client(base_url=address, timeout=30)


def post_upload(client: httpx.Client, data: bytes) -> httpx.Response:
    return client.post("/gradio_api/upload", files={"files": ("me.png", data, "image/png")})


@pytest.mark.parametrize(
    "path", ["/etc/passwd", str(ROOT / "pyproject.toml"), str(RELEASE / "index.json"), "pyproject.toml"]
)
@pytest.mark.parametrize("route", ["/gradio_api/file=", "/gradio_api/file/", "/file=", "/static/", "/assets/"])
def test_no_other_file_of_the_machine_can_be_fetched(client: httpx.Client, route: str, path: str) -> None:
    assert client.get(route + path).status_code in (403, 404)


def test_path_traversal_from_a_public_folder_is_rejected(client: httpx.Client, image: Path) -> None:
    [path] = post_upload(client, image.read_bytes()).json()
    assert client.get(f"/gradio_api/file={path}").content == image.read_bytes()
    for up in ("../" * 8, "..%2f" * 8, "%2e%2e/" * 8, "%252e%252e/" * 8):
        assert client.get(f"/gradio_api/file={Path(path).parent}/{up}etc/passwd").status_code in (403, 404)


@pytest.mark.parametrize("path", ["/etc/passwd", str(RELEASE / "samples.png"), "https://example.org/a.png"])
@pytest.mark.parametrize("more", [{}, {"is_stream": True}, {"url": "data:image/png;base64,AAAA"}])
def test_only_uploaded_files_are_accepted_as_images(client: httpx.Client, path: str, more: dict) -> None:
    config = json.loads(client.get("/").text.split("window.gradio_config = ")[1].split(";</script>")[0])
    [image] = [part["id"] for part in config["components"] if part["type"] == "image"]
    [on_upload] = [call["id"] for call in config["dependencies"] if call["inputs"] == [image]]
    payload = {"path": path, "meta": {"_type": "gradio.FileData"}} | more
    call = {"fn_index": on_upload, "data": [payload], "session_hash": "somebody", "trigger_id": image}
    client.post("/gradio_api/queue/join", json=call).raise_for_status()
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": "somebody"}) as response:
        events = "".join(response.iter_text())
    assert "was not uploaded" in events
    assert "<img" not in events


@pytest.mark.parametrize(
    "path",
    ["docs", "openapi.json", "monitoring", "gradio_api/info", "gradio_api/openapi.json"]
    + [f"gradio_api/{route}=https://example.org/" for route in ("proxy", "file")],
)
def test_routes_that_the_page_does_not_use_return_404(client: httpx.Client, path: str) -> None:
    assert client.get(f"/{path}").status_code == 404


@pytest.mark.parametrize(
    "path", ["/gradio_api/run/predict", "/gradio_api/call/tune", "/gradio_api/component_server", "/login"]
)
def test_functions_cannot_be_called_except_by_the_page(client: httpx.Client, path: str) -> None:
    assert client.post(f"/{path}", json={"data": []}).status_code == 404


def test_an_image_over_20_mb_is_rejected(client: httpx.Client) -> None:
    assert post_upload(client, bytes(MAX_IMAGE_BYTES + 1)).status_code == 413


def test_a_large_request_is_rejected_before_its_body_is_sent(address: str) -> None:
    connection = HTTPConnection(address.removeprefix("http://"), timeout=30)
    connection.putrequest("POST", "/gradio_api/queue/join")
    connection.putheader("Content-Length", str(10**9))
    connection.endheaders()
    assert connection.getresponse().status == 413


def test_a_request_that_does_not_say_how_large_it_is_is_refused(client: httpx.Client) -> None:
    assert client.post("/gradio_api/queue/join", content=iter([b"{}"])).status_code == 413


def test_the_browser_may_load_nothing_from_other_hosts(client: httpx.Client) -> None:
    assert "default-src 'self'" in client.get("/").headers["content-security-policy"]


def test_it_is_served_to_this_machine_alone(address: str) -> None:
    assert address.startswith("http://127.0.0.1:")
