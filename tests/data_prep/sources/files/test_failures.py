"""Failures of the system and of the libraries for remote stores have reasons that can be counted."""

import errno
import socket
import ssl
from types import SimpleNamespace

import aiohttp
import pytest

from data_prep.config import ReadConfig
from data_prep.errors import DataError
from data_prep.sources.files.failures import ReadFailed, failure_of, listing_errors
from data_prep.sources.files.http_headers import parse_content_range, parse_retry_after
from data_prep.sources.files.retrying import with_retries


def error_with(**attributes: object) -> Exception:
    error = Exception("of a store")
    for name, value in attributes.items():
        setattr(error, name, value)
    return error


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "reason", "retryable", "repeat"),
    [
        (OSError(errno.EIO, "Input/output error"), "EIO", True, True),
        (OSError(errno.ESTALE, "Stale file handle"), "ESTALE", True, True),
        (OSError(errno.EAGAIN, "again"), "EAGAIN", True, True),
        (OSError(errno.EMFILE, "Too many open files"), "EMFILE", True, True),
        (OSError(errno.ETIMEDOUT, "timed out"), "timeout", True, True),
        (OSError(errno.EACCES, "Permission denied"), "EACCES", True, False),
        (OSError(errno.ENOENT, "No such file"), "missing", False, False),
        (OSError(errno.ENOTDIR, "Not a directory"), "missing", False, False),
        (OSError(errno.ENAMETOOLONG, "File name too long"), "missing", False, False),
        (OSError(errno.EISDIR, "Is a directory"), "not a file", False, False),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "connection failed", True, True),
        (socket.gaierror(-3, "Temporary failure in name resolution"), "connection failed", True, True),
        (ssl.SSLCertVerificationError(1, "certificate has expired"), "connection failed", True, False),
        (TimeoutError(), "timeout", True, True),
        (aiohttp.ClientPayloadError("not enough data"), "incomplete answer", True, True),
        (error_with(status=503), "http 503", True, True),
        (error_with(status=404), "http 404", False, False),
        (error_with(code=410), "http 410", False, False),
        (error_with(response=SimpleNamespace(status_code=429)), "http 429", True, True),
        (error_with(response={"ResponseMetadata": {"HTTPStatusCode": 403}}), "http 403", True, False),
        (caused(FileNotFoundError("a"), ConnectionRefusedError(111, "refused")), "connection failed", True, True),
        (caused(FileNotFoundError("http://host/a"), error_with(status=500)), "http 500", True, True),
        (ValueError("anything else"), "read failed", True, True),
    ],
)  # fmt: skip
def test_an_error_is_classified(error: Exception, reason: str, retryable: bool, repeat: bool) -> None:
    failure = failure_of(error)
    assert (failure.reason, failure.retryable, failure.repeat) == (reason, retryable, repeat)
    assert failure.cause


@pytest.mark.parametrize(("code", "attempts"), [(errno.EIO, 3), (errno.EACCES, 1), (errno.ENOENT, 1)])
def test_a_read_of_a_disk_is_repeated_if_its_error_may_pass(code: int, attempts: int) -> None:
    calls = list[int]()

    def attempt() -> bytes:
        calls.append(code)
        raise OSError(code, "error of the disk")

    with pytest.raises(ReadFailed, match="error of the disk"):
        with_retries(ReadConfig(retries=2, backoff_seconds=0), "a.png", attempt)
    assert len(calls) == attempts


def test_the_error_of_a_listing_is_one_line_without_passwords() -> None:
    with pytest.raises(DataError) as caught, listing_errors("https://me:s3cr3t@host/a.zip"):
        raise ReadFailed("http 503", "HTTP 503\nfrom https://me:s3cr3t@host/a.zip")
    assert "s3cr3t" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("120", 120), ("0.5", 0.5), ("Fri, 31 Dec 1999 23:59:59 GMT", 0), ("soon", 0), ("-5", 0), ("", 0)],
)
def test_retry_after_is_parsed(value: str, seconds: float) -> None:
    assert parse_retry_after(value) == seconds


def test_retry_after_may_be_a_date_in_the_future() -> None:
    assert 10**9 < parse_retry_after("Fri, 31 Dec 2999 23:59:59 GMT") < 10**11


@pytest.mark.parametrize(
    ("value", "parsed"),
    [
        ("bytes 0-99/1234", (0, 99, 1234)),
        ("bytes 5-9/*", (5, 9, None)),
        ("bytes */1234", None),
        ("bytes 9-5/1234", None),
        ("items 0-1/2", None),
        ("", None),
    ],
)
def test_content_range_is_parsed(value: str, parsed: tuple[int, int, int | None] | None) -> None:
    assert parse_content_range(value) == parsed
