"""Read files from HTTP servers: whole or by byte range, with retries, and checked against the planned version."""

import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import TypeVar

from urllib3.exceptions import DecodeError, ProtocolError
from urllib3.response import BaseHTTPResponse
from urllib3.util import make_headers, parse_url

from data_prep.config import ReadConfig
from data_prep.credentials import redact
from data_prep.errors import DataError, SampleRejected
from data_prep.sources.files.failures import (
    BAD_URL,
    CONNECTION_FAILED,
    INCOMPLETE,
    TIMEOUT,
    ReadFailed,
    failure_of,
    status_failure,
)
from data_prep.sources.files.filesystem import MAX_FILE_BYTES, limit_size
from data_prep.sources.files.http_connections import connections_for
from data_prep.sources.files.http_headers import (
    forbids_use,
    parse_content_range,
    parse_retry_after,
    parse_total,
    version_tags,
)
from data_prep.sources.files.retrying import with_retries
from data_prep.sources.files.versions import check_same

CHUNK_BYTES = 256 * 2**10
GOOD_STATUSES = (HTTPStatus.OK, HTTPStatus.NON_AUTHORITATIVE_INFORMATION, HTTPStatus.PARTIAL_CONTENT)
BEYOND_END = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
NO_HEAD_STATUSES = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.METHOD_NOT_ALLOWED,
    HTTPStatus.NOT_IMPLEMENTED,
)
"""Answers to HEAD of servers that refuse it, and of URLs that are signed for GET only."""
Result = TypeVar("Result")


@dataclass
class _Host:
    """What this process knows about a server."""

    answers: int = 0
    """Number of complete answers so far."""
    is_down: bool = False
    """Whether all attempts of a read failed without any answer in between, and none came since."""


class HttpClient:
    """A client for all HTTP servers of a source. Thread-safe; there is one for each process and configuration."""

    def __init__(self, config: ReadConfig) -> None:
        self._config = config
        self._hosts: defaultdict[str, _Host] = defaultdict(_Host)
        self._lock = threading.Lock()

    def head(self, url: str) -> tuple[int | None, Mapping[str, str]]:
        """Return the size of a file, or None if the server does not know it, and the headers. Raises ReadFailed."""

        def attempt() -> tuple[int | None, Mapping[str, str]]:
            with self._request("HEAD", url) as answer:
                if answer.status not in NO_HEAD_STATUSES:
                    _check_status(answer)
                    return _length(answer), answer.headers
            with self._request("GET", url, {"Range": "bytes=0-0"}) as answer:
                _check_status(answer, BEYOND_END)
                described = answer.headers.get("Content-Range", "")
                return parse_total(described) if described else _length(answer), answer.headers

        return self._with_retries(url, attempt)

    def read_image(self, url: str, version: str = "") -> bytes:
        """Read a whole image. Raises ReadFailed, and SampleRejected if its use is forbidden or it is too large."""

        def attempt() -> bytes:
            with self._request("GET", url) as answer:
                _check_status(answer)
                tags = answer.headers.getlist("X-Robots-Tag")
                if not self._config.ignore_robots_tag and forbids_use(tags, self._config.user_agent):
                    raise SampleRejected("robots tag", cause=f"X-Robots-Tag: {', '.join(tags)}")
                check_same(url, version, _length(answer), version_tags(answer.headers))
                if (_length(answer) or 0) > MAX_FILE_BYTES:
                    raise SampleRejected("file too large")
                return limit_size(_read_body(answer, 0, MAX_FILE_BYTES + 1, decode=True))

        return self._with_retries(url, attempt)

    def read_range(self, url: str, start: int, size: int, version: str = "") -> bytes:
        """Read at most ``size`` bytes from an offset; fewer only at the end of the file. Raises ReadFailed."""

        def attempt() -> bytes:
            with self._request("GET", url, {"Range": f"bytes={start}-{start + size - 1}"}) as answer:
                _check_status(answer, BEYOND_END)
                return _read_range_of(answer, url, start, size, version)

        return self._with_retries(url, attempt)

    def _with_retries(self, url: str, attempt: Callable[[], Result]) -> Result:
        """Repeat an attempt, except while the server is down, because images of other servers would wait for it."""
        host = self._host(url.partition("://")[2].partition("/")[0])
        answers_before = host.answers

        def watched() -> Result:
            try:
                result = attempt()
            except DataError:
                raise
            except Exception as error:
                failure = error if isinstance(error, SampleRejected) else failure_of(error)
                if isinstance(failure, ReadFailed) and failure.reason in (TIMEOUT, CONNECTION_FAILED):
                    failure.repeat = failure.repeat and not host.is_down
                else:
                    host.answers, host.is_down = host.answers + 1, False
                raise failure from error
            host.answers, host.is_down = host.answers + 1, False
            return result

        try:
            return with_retries(self._config, redact(url), watched)
        except ReadFailed as failure:
            if failure.reason in (TIMEOUT, CONNECTION_FAILED) and host.answers == answers_before:
                host.is_down = True
            raise

    def _host(self, name: str) -> _Host:
        with self._lock:
            return self._hosts[name]

    @contextmanager
    def _request(self, method: str, url: str, headers: Mapping[str, str] | None = None) -> Iterator[BaseHTTPResponse]:
        """Send a request, follow redirects, and give the connection back when the block ends."""
        try:
            connections, auth = connections_for(parse_url(url), self._config), parse_url(url).auth
            all_headers = {**connections.headers, **(headers or {}), **(make_headers(basic_auth=auth) if auth else {})}
            answer = connections.request(method, url, headers=all_headers, preload_content=False)
        except ValueError as error:  # of the URL, or of one that it redirects to
            raise ReadFailed(BAD_URL, str(error), retryable=False) from error
        try:
            yield answer
        finally:
            if method == "HEAD":
                answer.drain_conn()
            if not answer.closed:  # a connection with an unread body cannot be used again
                answer.close()
            answer.release_conn()


def _read_range_of(answer: BaseHTTPResponse, url: str, start: int, size: int, version: str) -> bytes:
    """Take the bytes that were asked for out of the answer, whichever part of the file it holds."""
    described = answer.headers.get("Content-Range", "")
    if answer.status == BEYOND_END:
        check_same(url, version, parse_total(described), version_tags(answer.headers))
        return b""
    if answer.status != HTTPStatus.PARTIAL_CONTENT:  # the server ignores ranges and sends the whole file
        check_same(url, version, _length(answer), version_tags(answer.headers))
        return _read_body(answer, start, size)
    sent = parse_content_range(described)
    if sent is None or sent.first > start:
        wanted = f"{start}-{start + size - 1}"
        raise ReadFailed(INCOMPLETE, f"asked for bytes {wanted}, but the answer holds {described or 'unknown ones'}")
    check_same(url, version, sent.total, version_tags(answer.headers))
    data = _read_body(answer, start - sent.first, size)
    expected = size if sent.total is None else max(0, min(size, sent.total - start))
    if len(data) < expected:
        raise ReadFailed(INCOMPLETE, f"{len(data)} of {expected} bytes")
    return data


def _read_body(answer: BaseHTTPResponse, skip: int, size: int, *, decode: bool = False) -> bytes:
    """Read ``size`` bytes of the body after the first ``skip``. Raises ReadFailed if it ends before it should."""
    data = bytearray()
    try:
        while len(data) < size:
            chunk = answer.read(CHUNK_BYTES, decode_content=decode)
            if not chunk:
                break
            dropped = min(skip, len(chunk))
            skip -= dropped
            data += chunk[dropped:]
    except (ProtocolError, DecodeError) as error:
        raise ReadFailed(INCOMPLETE, failure_of(error).cause) from error
    return bytes(data[:size])


def _check_status(answer: BaseHTTPResponse, *further: int) -> None:
    """Raise ReadFailed if the answer has another status than the good ones and ``further``."""
    if answer.status not in (*GOOD_STATUSES, *further):
        retry_after = parse_retry_after(answer.headers.get("Retry-After", ""))
        raise status_failure(answer.status, answer.reason or "", retry_after)


def _length(answer: BaseHTTPResponse) -> int | None:
    value = answer.headers.get("Content-Length", "")
    return int(value) if value.isdigit() else None


@lru_cache(maxsize=4)
def _client(config: ReadConfig, _pid: int) -> HttpClient:
    return HttpClient(config)


def http_client(config: ReadConfig) -> HttpClient:
    """Return this process's client for a configuration."""
    return _client(config, os.getpid())
