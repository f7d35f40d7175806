"""Images and archives at URLs of servers that fail in every way."""

import io
import logging
import re
import socket
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from data_prep.config import PrepareConfig, ReadConfig
from data_prep.errors import DataError, SampleRejected, SourceChangedError
from data_prep.records import Record, Source
from data_prep.sources import open_source
from data_prep.sources.files import retrying
from data_prep.sources.files.filesystem import open_tree
from tests.data_prep.fault_server import FaultServer, fault_server

QUICK: dict[str, Any] = {"retries": 2, "backoff_seconds": 0.001, "timeout_seconds": 10, "idle_timeout_seconds": 5}
IMPATIENT = QUICK | {"timeout_seconds": 0.6, "idle_timeout_seconds": 0.2}
IMAGE = bytes(range(256)) * 20
OpenList = Callable[..., tuple[Source, list[Record]]]


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with fault_server() as running:
        running.files["0.png"] = IMAGE
        yield running


@pytest.fixture
def open_list(tmp_path: Path) -> OpenList:
    """Open a table of URLs and return the source with its records."""

    def build(*urls: str, **read: Any) -> tuple[Source, list[Record]]:
        table = tmp_path / "list.csv"
        table.write_text("image\n" + "".join(f'"{url}"\n' for url in urls))
        source = open_source(make_config(table, **QUICK | read))
        return source, [item for item in source if isinstance(item, Record)]

    return build


def make_config(source: object, **read: Any) -> PrepareConfig:
    return PrepareConfig(source=str(source), output="unused", domain="cat", read=ReadConfig(**read))


def failure_of_read(source: Source, record: Record) -> SampleRejected:
    with pytest.raises(SampleRejected) as caught:
        source.read(record)
    return caught.value


@pytest.mark.parametrize(
    "fault", ["503", "500", "429", "408", "425", "close", "cut", "cut chunked", "429 Retry-After: 0"]
)
def test_a_fault_that_passes_is_repeated(fault: str, server: FaultServer, open_list: OpenList) -> None:
    source, (record,) = open_list(f"{server.url}/0.png")
    server.faults["0.png"].extend([fault] * 2)
    assert source.read(record) == IMAGE
    assert server.gets("0.png") == 3


@pytest.mark.parametrize(
    ("fault", "reason", "cause", "retryable", "requests"),
    [
        ("503", "http 503", "HTTP 503 Service Unavailable; tried 3 times", True, 3),
        ("429", "http 429", "HTTP 429 Too Many Requests; tried 3 times", True, 3),
        ("403", "http 403", "HTTP 403 Forbidden", True, 1),
        ("202", "http 202", "HTTP 202 Accepted", True, 1),
        ("404", "http 404", "HTTP 404 Not Found", False, 1),
        ("410", "http 410", "HTTP 410 Gone", False, 1),
        ("close", "connection failed", "Remote end closed connection without response; tried 3 times", True, 3),
        ("cut", "incomplete answer", "IncompleteRead.*; tried 3 times", True, 3),
        ("cut chunked", "incomplete answer", "IncompleteRead.*; tried 3 times", True, 3),
    ],
)
def test_a_fault_that_stays_is_a_reject_with_its_cause(
    fault: str, reason: str, cause: str, retryable: bool, requests: int, server: FaultServer, open_list: OpenList
) -> None:
    source, (record,) = open_list(f"{server.url}/0.png")
    server.always["0.png"] = fault
    failure = failure_of_read(source, record)
    assert (failure.reason, failure.retryable) == (reason, retryable)
    assert re.fullmatch(cause, failure.cause)
    assert server.gets("0.png") == requests


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("hang", "no byte from the server in 0.2 s"),
        ("stall", "no byte from the server in 0.2 s"),
        ("trickle", "the answer is not complete after 0.6 s"),
    ],
)
def test_a_server_that_does_not_finish_its_answer_is_given_up(
    fault: str, cause: str, server: FaultServer, open_list: OpenList
) -> None:
    source, (record,) = open_list(f"{server.url}/0.png", **IMPATIENT | {"retries": 1})
    server.always["0.png"] = fault
    failure = failure_of_read(source, record)
    assert (failure.reason, failure.retryable) == ("timeout", True)
    assert failure.cause.startswith(cause[:20])
    assert server.gets("0.png") == 2


def test_a_server_that_is_down_or_unknown_is_a_retryable_reject(open_list: OpenList) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        source, records = open_list(f"http://127.0.0.1:{port}/0.png", "http://nowhere.invalid/0.png")
        failures = [failure_of_read(source, record) for record in records]
    assert [(failure.reason, failure.retryable) for failure in failures] == [("connection failed", True)] * 2
    assert failures[0].cause == "Connection refused; tried 3 times"


@pytest.mark.parametrize("url", ["http://[::1/0.png", "http://a:99999999/0.png", "htp://a/0.png", "http:///0.png"])
def test_a_malformed_url_is_rejected_for_good(url: str, open_list: OpenList) -> None:
    source, (record,) = open_list(url)
    failure = failure_of_read(source, record)
    assert (failure.reason, failure.retryable) == ("bad url", False)


def test_a_password_in_a_url_is_sent_but_never_shown(server: FaultServer, open_list: OpenList) -> None:
    source, (record,) = open_list(f"{server.url.replace('//', '//me:s3cr3t@')}/0.png")
    assert source.read(record) == IMAGE
    assert server.seen_headers[0]["authorization"] == "Basic bWU6czNjcjN0"
    server.always["0.png"] = "503"
    failure = failure_of_read(source, record)
    assert "s3cr3t" not in failure.cause + record.key + record.source


def test_after_a_server_did_not_answer_its_other_urls_are_tried_once_until_it_does(
    server: FaultServer, open_list: OpenList
) -> None:
    source, records = open_list(*(f"{server.url}/{number}.png" for number in range(3)), **IMPATIENT)
    server.files["2.png"] = IMAGE
    server.always = {"0.png": "hang", "1.png": "hang"}
    for record in records[:2]:
        failure_of_read(source, record)
    assert (server.gets("0.png"), server.gets("1.png")) == (3, 1)
    assert source.read(records[2]) == IMAGE
    failure_of_read(source, records[1])
    assert server.gets("1.png") == 1 + 3


def test_a_server_that_hangs_does_not_delay_another_one(server: FaultServer, open_list: OpenList) -> None:
    with fault_server() as other:
        other.files["0.png"] = b"other"
        hanging = [f"{server.url}/{number}.png" for number in range(4)]
        server.always = {f"{number}.png": "hang" for number in range(4)}
        source, records = open_list(*hanging, f"{other.url}/0.png", retries=0, requests_per_host=1)
        with ThreadPoolExecutor(4) as pool:
            waiting = [pool.submit(source.read, record) for record in records[:4]]
            assert source.read(records[4]) == b"other"
            assert not any(future.done() for future in waiting)
            server.stopped.set()


def test_requests_to_one_server_are_parallel_up_to_the_limit(server: FaultServer, open_list: OpenList) -> None:
    source, records = open_list(*[f"{server.url}/0.png"] * 8, requests_per_host=2)
    server.always["0.png"] = "pair"
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(source.read, records)) == [IMAGE] * 8
    assert server.most_active == 2


@pytest.mark.parametrize("limit", [300.0, 0.2])
def test_a_longer_retry_after_is_respected_up_to_a_limit(
    limit: float,
    server: FaultServer,
    open_list: OpenList,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO, "data_prep")
    monkeypatch.setattr(retrying, "MAX_RETRY_AFTER_SECONDS", limit)
    source, (record,) = open_list(f"{server.url}/0.png")
    server.faults["0.png"].append(f"503 Retry-After: {0.3 if limit == 300 else 86400}")
    assert source.read(record) == IMAGE
    assert caplog.records[0].getMessage().endswith(f"retrying in {min(limit, 0.3):.1f} s")


def test_redirects_are_followed_and_loops_end(server: FaultServer, open_list: OpenList) -> None:
    source, records = open_list(f"{server.url}/moved", f"{server.url}/loop")
    server.always = {"moved": f"to {server.url}/0.png", "loop": f"to {server.url}/loop"}
    assert source.read(records[0]) == IMAGE
    failure = failure_of_read(source, records[1])
    assert (failure.reason, failure.retryable) == ("too many redirects", True)


def test_the_user_agent_can_be_set(server: FaultServer, open_list: OpenList) -> None:
    source, (record,) = open_list(f"{server.url}/0.png", user_agent="cats/1.0 (me@example.org)")
    source.read(record)
    assert server.seen_headers[0]["User-Agent"] == "cats/1.0 (me@example.org)"


def test_a_proxy_of_the_environment_is_used(
    server: FaultServer, open_list: OpenList, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", server.url)
    source, records = open_list("http://cats.invalid/0.png", f"{server.url}/0.png")
    assert source.read(records[0]) == IMAGE
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert source.read(records[1]) == IMAGE


@pytest.mark.parametrize(
    ("tags", "forbidden"),
    [
        (["noai"], True),
        (["nofollow, NoImageAI"], True),
        (["all", "noindex"], True),
        (["otherbot: noindex, noai"], False),
        (["otherbot: noindex, cats: noimageindex"], True),
        (["cats: noai"], True),
        (["unavailable_after: 25 Jun 2030 15:00:00 PST, noai"], True),
        (["max-image-preview: large"], False),
        (["nofollow", "noarchive"], False),
    ],
)
@pytest.mark.parametrize("ignore", [False, True])
def test_x_robots_tag_is_respected(
    tags: list[str], forbidden: bool, ignore: bool, server: FaultServer, open_list: OpenList
) -> None:
    server.headers["0.png"] = [("X-Robots-Tag", tag) for tag in tags]
    source, (record,) = open_list(f"{server.url}/0.png", user_agent="Cats/1.0", ignore_robots_tag=ignore)
    if not forbidden or ignore:
        assert source.read(record) == IMAGE
        return
    failure = failure_of_read(source, record)
    assert (failure.reason, failure.retryable, server.gets("0.png")) == ("robots tag", False, 1)


def test_a_file_that_is_too_large_is_rejected_without_reading_it(server: FaultServer, open_list: OpenList) -> None:
    source, records = open_list(f"{server.url}/0.png")
    server.always["0.png"] = "huge"
    assert failure_of_read(source, records[0]).reason == "file too large"


def pack(kind: str, image: bytes = IMAGE) -> bytes:
    """Return an archive of 6 images and their captions."""
    buffer = io.BytesIO()
    files = {f"a/{number:02d}.png": image + bytes([number]) for number in range(6)}
    files |= {name.replace(".png", ".txt"): f"cat {name}".encode() for name in files}
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, data in sorted(files.items()):
                archive.writestr(name, data)
        return buffer.getvalue()
    with tarfile.open(fileobj=buffer, mode="w:gz" if kind.endswith("gz") else "w") as tar:
        for name, data in sorted(files.items()):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


every_archive = pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])


@every_archive
@pytest.mark.parametrize("fault", ["", "whole", "503", "cut", "short", "wrong", "chunked", "no head"])
def test_archives_are_listed_and_read_in_spite_of_faults(kind: str, fault: str, server: FaultServer) -> None:
    name = f"set.{kind}"
    server.files[name], server.refuses_head = pack(kind), fault == "no head"
    if fault == "whole":
        server.always[name] = fault
    elif fault != "no head":
        server.faults[name].extend([fault, fault, "", ""] * 100)
    source = open_source(make_config(f"{server.url}/{name}", **QUICK))
    records = [item for item in source if isinstance(item, Record)]
    assert [source.read(record) for record in records] == [IMAGE + bytes([number]) for number in range(6)]
    assert [source.caption(record) for record in records] == [f"cat a/{number:02d}.png" for number in range(6)]


@every_archive
@pytest.mark.parametrize("fault", ["503", "close", "cut"])
def test_an_outage_while_an_archive_is_read_gives_retryable_rejects(kind: str, fault: str, server: FaultServer) -> None:
    name = f"set.{kind}"
    server.files[name] = pack(kind)
    source = open_source(make_config(f"{server.url}/{name}", **QUICK))
    records = [item for item in source if isinstance(item, Record)]
    server.always[name] = fault
    assert failure_of_read(source, records[3]).retryable
    server.always.clear()
    assert source.read(records[3]) == IMAGE + bytes([3])


@every_archive
def test_an_outage_while_an_archive_is_listed_is_an_error_that_names_it(kind: str, server: FaultServer) -> None:
    name = f"set.{kind}"
    server.files[name] = pack(kind)
    source = open_source(make_config(f"{server.url}/{name}", **QUICK))
    server.always[name] = "503"
    with pytest.raises(DataError, match=rf"set.{kind} cannot be read \(HTTP 503 Service Unavailable; tried 3 times\)"):
        list(source)


def test_a_server_that_is_down_is_named_as_the_cause_for_every_kind_of_source() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        for name in ("set.zip", "set.tar", "set-{0..1}.tar", "*.tar", "list.csv", "list.parquet", "pictures"):
            with pytest.raises(DataError, match=r"cannot be read \(Connection refused.*\)"):
                list(open_source(make_config(f"{url}/{name}", **QUICK)))


@pytest.mark.parametrize("name", ["set.zip", "set.tar", "list.csv", "list.parquet"])
def test_a_file_that_the_server_does_not_have_does_not_exist(name: str, server: FaultServer) -> None:
    with pytest.raises(DataError, match=r"does not exist \(HTTP 404 Not Found\)"):
        list(open_source(make_config(f"{server.url}/{name}", **QUICK)))


@every_archive
@pytest.mark.parametrize("header", ["ETag", "Last-Modified", "size"])
def test_an_archive_that_was_changed_since_it_was_listed_is_an_error(
    kind: str, header: str, server: FaultServer
) -> None:
    name = f"set.{kind}"
    server.files[name] = pack(kind)
    server.headers[name] = [(header, '"one"' if header == "ETag" else formatdate(time.time() - 99))]
    source = open_source(make_config(f"{server.url}/{name}", **QUICK))
    records = [item for item in source if isinstance(item, Record)]
    server.headers[name] = [(header, '"two"' if header == "ETag" else formatdate(time.time()))]
    server.files[name] = pack(kind, IMAGE[::-1]) + b"more" * (header == "size")
    with pytest.raises(SourceChangedError, match=r"was changed since it was listed .*; rerun `e4t prepare`"):
        source.read(records[0])


def test_a_table_of_unknown_size_is_read(server: FaultServer) -> None:
    server.files["list.csv"] = f"image\n{server.url}/0.png\n".encode()
    server.hides_size = True
    source = open_source(make_config(f"{server.url}/list.csv", **QUICK))
    assert [source.read(item) for item in source if isinstance(item, Record)] == [IMAGE]


def test_the_files_of_a_folder_are_found_by_the_links_of_its_index_page(server: FaultServer) -> None:
    links = ["../", "a.tar", "b%20c.tar", "100%25.tar", "sub/", "/elsewhere/d.tar", "http://other/e.tar", "?sort=name"]
    server.files["sets/"] = "".join(f'<a href="{link}">x</a>' for link in links).encode()
    tree = open_tree(f"{server.url}/sets", ReadConfig(**QUICK))
    names = [(entry.name, entry.kind) for entry in tree.entries("", lambda _: True)]
    assert names == [("100%25.tar", "file"), ("a.tar", "file"), ("b c.tar", "file"), ("sub", "folder")]
    assert tree.glob("*.tar") == ["100%25.tar", "a.tar", "b c.tar"]
