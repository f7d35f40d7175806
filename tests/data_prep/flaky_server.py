"""A local HTTP server that injects faults on request."""

import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HANG_SECONDS = 1.5


class FlakyServer:
    """Serves a folder with byte ranges; each fault queued for a file affects one request.

    Faults: ``500``, ``404``, ``cut`` (closes in the middle of the body), ``short`` (half of the bytes with a matching
    Content-Length), ``flipped`` (one bit differs), ``hang`` (answers after 1.5 s).
    """

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.faults: defaultdict[str, deque[str]] = defaultdict(deque)
        self.always: dict[str, str] = {}
        self.requests: Counter[str] = Counter()
        """Number of successful requests by file."""
        self.sent: Counter[str] = Counter()
        """Number of bytes sent by file."""

    def fault(self, name: str) -> str:
        """Return the fault of the next request for a file, or an empty string."""
        queued = self.faults[name]
        return queued.popleft() if queued else self.always.get(name, "")


@contextmanager
def flaky_server(folder: Path) -> Iterator[FlakyServer]:
    """Serve a folder until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def log_message(self, *_: object) -> None:
            """Do not log requests."""

        def _answer(self, *, with_body: bool) -> None:
            name = self.path.lstrip("/")
            fault = known.fault(name) if with_body else ""
            path = folder / name
            if fault == "hang":
                time.sleep(HANG_SECONDS)
            if fault in ("500", "404") or not path.is_file():
                self.send_error(int(fault or HTTPStatus.NOT_FOUND))
                return
            data = path.read_bytes()
            first, last = self._range(len(data))
            body = bytearray(data[first : last + 1])
            if fault == "flipped":
                body[len(body) // 2] ^= 1
            if fault == "short":
                body = body[: len(body) // 2]
            self.send_response(HTTPStatus.PARTIAL_CONTENT if "Range" in self.headers else HTTPStatus.OK)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Range", f"bytes {first}-{first + len(body) - 1}/{len(data)}")
            self.end_headers()
            if fault == "cut":
                self.wfile.write(body[: len(body) // 2])
                self.close_connection = True
            elif with_body:
                known.requests[name] += 1
                known.sent[name] += len(body)
                self.wfile.write(body)

        def _range(self, size: int) -> tuple[int, int]:
            if "Range" not in self.headers:
                return 0, size - 1
            first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
            return int(first), min(int(last or size - 1), size - 1)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    known = FlakyServer(folder, f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield known
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
