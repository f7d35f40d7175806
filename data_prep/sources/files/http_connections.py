"""Pools of HTTP connections: bounded for each host, with time limits, through the proxies of the environment."""

import http.client
import io
import os
import socket
import time
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any, cast
from urllib.request import getproxies, proxy_bypass

import urllib3
import urllib3.connection
from urllib3.util import Retry, Timeout, Url, make_headers, parse_url

from data_prep.config import ReadConfig
from data_prep.credentials import redact
from data_prep.errors import DataError

MAX_REDIRECTS = 10
MAX_HOSTS = 64
"""Hosts whose connections are kept open for further requests."""


def connections_for(url: Url, config: ReadConfig) -> urllib3.PoolManager:
    """Return this process's pools of connections that reach the URL, directly or through a proxy.

    Proxies are taken from the environment (``https_proxy``, ``no_proxy``, ...), as other clients do. Raises DataError
    for a proxy that does not speak HTTP.
    """
    proxies = getproxies()
    proxy = proxies.get(url.scheme or "http") or proxies.get("all")
    if proxy and url.netloc and proxy_bypass(url.netloc):
        proxy = None
    return _connections(config, proxy, os.getpid())


@lru_cache(maxsize=8)
def _connections(config: ReadConfig, proxy: str | None, _pid: int) -> urllib3.PoolManager:
    """Return the pools of a process; a forked process must not share the connections of its parent."""
    idle = config.idle_timeout_seconds
    settings: dict[str, Any] = {
        "num_pools": MAX_HOSTS,
        "maxsize": config.requests_per_host,
        "block": True,
        "timeout": Timeout(connect=idle, read=idle),
        # Failures are repeated by with_retries. Retry-After is for it, too; urllib3 would wait without limit.
        "retries": Retry(
            total=None, connect=0, read=0, status=0, other=0, redirect=MAX_REDIRECTS, respect_retry_after_header=False
        ),
        "headers": {"User-Agent": config.user_agent, "Accept-Encoding": "identity"},
    }
    if proxy:
        proxy = proxy if "://" in proxy else f"http://{proxy}"
        if not proxy.startswith(("http://", "https://")):
            raise DataError(f"the proxy {redact(proxy)} of the environment is not supported; set one of http or https")
        auth = parse_url(proxy).auth
        manager: urllib3.PoolManager = urllib3.ProxyManager(
            proxy, proxy_headers=make_headers(proxy_basic_auth=auth) if auth else None, **settings
        )
    else:
        manager = urllib3.PoolManager(**settings)
    manager.pool_classes_by_scheme = _pool_classes(idle, config.timeout_seconds)
    return manager


def _pool_classes(idle_seconds: float, total_seconds: float) -> dict[str, type]:
    """Return pools whose answers must be complete within ``total_seconds`` after the request."""
    bounded = partial(_BoundedResponse, idle_seconds=idle_seconds, total_seconds=total_seconds)

    class HttpConnection(urllib3.connection.HTTPConnection):
        response_class = cast("Any", staticmethod(bounded))

    class HttpsConnection(urllib3.connection.HTTPSConnection):
        response_class = cast("Any", staticmethod(bounded))

    class HttpPool(urllib3.HTTPConnectionPool):
        ConnectionCls = HttpConnection

    class HttpsPool(urllib3.HTTPSConnectionPool):
        ConnectionCls = HttpsConnection

    return {"http": HttpPool, "https": HttpsPool}


class _BoundedResponse(http.client.HTTPResponse):
    """An answer with a limit of the time until its end; sockets only limit the time between two bytes."""

    def __init__(
        self, sock: socket.socket, *args: object, idle_seconds: float, total_seconds: float, **kwargs: object
    ) -> None:
        super().__init__(sock, *args, **kwargs)  # type: ignore[arg-type]
        raw = self.fp.detach()
        self.fp = io.BufferedReader(_BoundedSocketFile(raw, sock, idle_seconds, total_seconds))


class _BoundedSocketFile(io.RawIOBase):
    def __init__(self, raw: io.RawIOBase, sock: socket.socket, idle_seconds: float, total_seconds: float) -> None:
        self._raw, self._sock, self._idle_seconds, self._total_seconds = raw, sock, idle_seconds, total_seconds
        self._deadline = time.monotonic() + total_seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int | None:  # type: ignore[override]
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError(f"the answer is not complete after {self._total_seconds:g} s")
        self._sock.settimeout(min(self._idle_seconds, remaining))
        with suppress(TimeoutError):
            return cast("int | None", self._raw.readinto(buffer))
        if remaining > self._idle_seconds:
            raise TimeoutError(f"no byte from the server in {self._idle_seconds:g} s")
        raise TimeoutError(f"the answer is not complete after {self._total_seconds:g} s")

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()
