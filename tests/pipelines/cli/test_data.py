"""``e4t prepare`` accounts for every entry of the source, in what it prints and by its exit code."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data_prep.flaky_server import FlakyServer, flaky_server

E4T = Callable[..., tuple[int, str, str]]


@pytest.fixture
def web(tmp_path: Path) -> Iterator[FlakyServer]:
    """Serve six images over HTTP and list them in a table."""
    folder = tmp_path / "web"
    folder.mkdir()
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    with flaky_server(folder) as server:
        rows = "".join(f"{server.url}/{number}.png\n" for number in range(6))
        (tmp_path / "list.csv").write_text(f"image\n{rows}")
        yield server


@pytest.fixture
def prepare(e4t: E4T, tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    settings = {"source": tmp_path / "list.csv", "output": tmp_path / "set", "domain": "cat", "resolution": 16}
    options = [word for name, value in settings.items() for word in (f"--data.{name}", str(value))]
    return lambda *more: e4t("prepare", *options, "--workers", "1", "--data.read.retries", "0", *more)


def test_a_dry_run_shows_what_would_be_read_and_writes_nothing(web: FlakyServer, prepare: E4T, tmp_path: Path) -> None:
    code, out, _ = prepare("--dry-run")
    assert code == 0
    assert "6 images" in out
    assert "6 .png" in out
    assert out.count("sample ") == 6
    assert not web.requests
    assert not (tmp_path / "set").exists()


def test_failed_reads_end_in_exit_code_1_until_they_succeed(web: FlakyServer, prepare: E4T, tmp_path: Path) -> None:
    web.always = {"2.png": "500", "4.png": "500"}
    code, _, err = prepare()
    assert code == 1
    assert err.splitlines()[-1].startswith("e4t: output ")
    assert "is not finished: 2 of 6 images could not be read" in err
    _, out, _ = prepare("--status")
    assert "not finished" in out
    assert "to retry  2 " in out
    web.always = {}
    web.requests.clear()
    code, out, _ = prepare()
    assert code == 0
    assert "kept 6 of 6  rejected none  ignored none" in out
    assert set(web.requests) == {"2.png", "4.png"}


def test_allowed_failures_are_counted_in_the_last_line(web: FlakyServer, prepare: E4T, tmp_path: Path) -> None:
    web.always = {"2.png": "500"}
    code, out, _ = prepare("--data.read.max_failed_fraction", "0.2")
    assert code == 0
    assert "kept 5 of 6  rejected 1 (1 " in out
    assert "to retry 1 (1 " in out
    lines = [json.loads(line) for line in (tmp_path / "set/rejects.jsonl").read_text().splitlines()]
    assert [(line["status"], line["source"]) for line in lines] == [("retryable", f"{web.url}/2.png")]


def test_rejects_are_read_again_on_request(web: FlakyServer, prepare: E4T) -> None:
    original = (web.folder / "3.png").read_bytes()
    (web.folder / "3.png").write_text("not an image")
    assert "rejected 1 (1 not an image)" in prepare()[1]
    (web.folder / "3.png").write_bytes(original)
    assert "rejected 1 (1 not an image)" in prepare()[1]
    assert "rejected 1 (1 not an image)" in prepare("--retry-rejects", "http, empty")[1]
    assert "kept 6 of 6" in prepare("--retry-rejects", "http,not an image")[1]
