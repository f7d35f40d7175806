"""Classify errors of reading a source: whether they may be temporary, and by a small fixed set of reasons."""

import errno
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.client import IncompleteRead

from data_prep.credentials import redact
from data_prep.errors import DataError, SampleRejected
from data_prep.sources.files.versions import changed

PERMANENT_STATUSES = (HTTPStatus.NOT_FOUND, HTTPStatus.GONE)
REPEATED_STATUSES = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)
"""Statuses after which a request is repeated at once, besides 5xx."""
MISSING, NOT_A_FILE, BAD_URL = "missing", "not a file", "bad url"
TIMEOUT, CONNECTION_FAILED, INCOMPLETE = "timeout", "connection failed", "incomplete answer"
READ_FAILED = "read failed"
"""Any other error of a remote store."""
_NETWORK_REASONS = (TIMEOUT, CONNECTION_FAILED, INCOMPLETE)
_MISSING_ERRNOS = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
_NOT_REPEATED_ERRNOS = (errno.EACCES, errno.EPERM, errno.EINVAL)
_CONNECTION_ERRNOS = frozenset(
    (errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, errno.EHOSTUNREACH, errno.ENETUNREACH)
    + (errno.ENETDOWN, errno.ENETRESET, errno.EHOSTDOWN, errno.ENOTCONN, errno.EADDRNOTAVAIL)
)


class ReadFailed(SampleRejected):
    """A file of the source cannot be read."""

    def __init__(
        self, reason: str, cause: str, *, retryable: bool = True, repeat: bool = True, retry_after: float = 0.0
    ) -> None:
        super().__init__(reason, cause=" ".join(redact(cause).split()), retryable=retryable)
        self.repeat = repeat and retryable
        """Whether it makes sense to try again at once."""
        self.retry_after = retry_after
        """Pause in seconds that the server asks for."""

    @property
    def is_missing(self) -> bool:
        """Whether the file does not exist."""
        return self.reason in (MISSING, *(f"http {int(status)}" for status in PERMANENT_STATUSES))

    def __str__(self) -> str:
        return self.cause or self.reason


def status_failure(status: int, phrase: str = "", retry_after: float = 0.0) -> ReadFailed:
    """Return the failure of a request that was answered with this HTTP status."""
    if not phrase and status in HTTPStatus.__members__.values():
        phrase = HTTPStatus(status).phrase
    repeat = status in REPEATED_STATUSES or status >= HTTPStatus.INTERNAL_SERVER_ERROR
    permanent = status in PERMANENT_STATUSES
    cause = f"HTTP {status} {phrase}".strip()
    return ReadFailed(f"http {status}", cause, retryable=not permanent, repeat=repeat, retry_after=retry_after)


def failure_of(error: BaseException) -> ReadFailed:
    """Return the failure that an exception of the system or of a library for a remote store means."""
    if isinstance(error, ReadFailed):
        return error
    chain = list(_causes(error))
    root = chain[-1]
    status = next(filter(None, map(_status_of, chain)), None)
    if status:
        return status_failure(status)
    failures = [failure for cause in chain if (failure := _classify(cause))]
    # Libraries report a server that is down as a missing file, and look for it in a cache first.
    network = next((failure for failure in reversed(failures) if failure.reason in _NETWORK_REASONS), None)
    return network or next(iter(failures), None) or ReadFailed(READ_FAILED, f"{type(root).__name__}: {root}")


@contextmanager
def listing_errors(label: object) -> Iterator[None]:
    """Convert failed reads while a source is listed to a DataError of one line that names the file and the cause."""
    try:
        yield
    except DataError:
        raise
    except SampleRejected as failure:
        cause = failure.cause or failure.reason
        if isinstance(failure, ReadFailed) and failure.is_missing:
            message = f"does not exist ({cause}); check data.source"
        elif isinstance(failure, ReadFailed) and failure.reason == BAD_URL:
            message = f"cannot be opened ({cause}); check data.source"
        else:
            message = f"cannot be read ({cause}); try again when it is readable, or move it away"
        raise DataError(f"source {redact(str(label))} {message}") from failure
    except OSError as error:
        raise DataError(
            f"source {redact(str(label))} cannot be read ({failure_of(error)}); make it readable or move it away"
        ) from error


@contextmanager
def missing_is_change(label: object, version: str) -> Iterator[None]:
    """Raise SourceChangedError if a file that was listed with a version does not exist any more."""
    try:
        yield
    except ReadFailed as failure:
        if version and failure.is_missing:
            raise changed(label, f"it is gone: {failure}") from failure
        raise


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and those that led to it, the outermost first."""
    seen = set[int]()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        inner = getattr(following, "reason", None)  # urllib3 wraps errors without raising from them
        nested = next((part for part in following.args if isinstance(part, BaseException)), None)
        inner = inner if isinstance(inner, BaseException) else nested
        following = inner or following.__cause__ or following.__context__


def _classify(error: BaseException) -> ReadFailed | None:
    """Return the failure that this exception alone means; None if it says nothing."""
    text, name = _text(error), type(error).__name__
    if isinstance(error, TimeoutError) or "Timeout" in name:
        return ReadFailed(TIMEOUT, text)
    if isinstance(error, IncompleteRead) or name in ("IncompleteRead", "InvalidChunkLength", "ClientPayloadError"):
        return ReadFailed(INCOMPLETE, text)
    if name == "ResponseError" and "redirects" in text:
        return ReadFailed("too many redirects", text, repeat=False)
    if isinstance(error, ssl.SSLError) or name.startswith("ClientConnector"):
        return ReadFailed(CONNECTION_FAILED, text, repeat=not isinstance(error, ssl.SSLCertVerificationError))
    if isinstance(error, ValueError) and "embedded null" in text:
        return ReadFailed(MISSING, text, retryable=False)
    code: int | None = getattr(error, "errno", None)
    if isinstance(error, ConnectionError | socket.gaierror) or code in _CONNECTION_ERRNOS:
        return ReadFailed(CONNECTION_FAILED, text)
    if not isinstance(error, OSError):
        return None
    if isinstance(error, FileNotFoundError | NotADirectoryError) or code in _MISSING_ERRNOS:
        return ReadFailed(MISSING, text, retryable=False)
    if isinstance(error, IsADirectoryError) or code == errno.ELOOP:
        return ReadFailed(NOT_A_FILE, text, retryable=False)
    if isinstance(error, PermissionError):
        return ReadFailed(errno.errorcode.get(code or errno.EACCES, "EACCES"), text, repeat=False)
    if code is not None and code in errno.errorcode:
        return ReadFailed(errno.errorcode[code], text, repeat=code not in _NOT_REPEATED_ERRNOS)
    return None


def _status_of(error: BaseException) -> int | None:
    """Return the HTTP status that an exception of aiohttp, requests, httpx or botocore carries."""
    response = getattr(error, "response", None)
    candidates = [*(getattr(error, name, None) for name in ("status", "code")), getattr(response, "status_code", None)]
    if isinstance(response, dict):
        metadata = response.get("ResponseMetadata")
        candidates.append(metadata.get("HTTPStatusCode") if isinstance(metadata, dict) else None)
    return next((value for value in candidates if isinstance(value, int) and value >= HTTPStatus.BAD_REQUEST), None)


def _text(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
