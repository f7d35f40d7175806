"""A local HTTP server whose answers can be replaced by every kind of fault, one request at a time."""

import contextlib
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class FaultServer:
    """Serves files from memory with byte ranges; each fault queued for a file affects one GET.

    Faults: a status (``503``, with headers as in ``429 Retry-After: 1``), ``hang`` (no answer), ``stall`` (half of the
    body), ``trickle`` (headers, then bytes without end, each in time), ``cut`` (closes in the middle of the body),
    ``close`` (closes without an answer), ``whole`` (ignores the range), ``wrong`` (sends the first bytes for any range
    and says so), ``short`` (half of the range and says so), ``chunked`` (without a length), ``cut chunked``, ``huge``
    (claims to have a gigabyte), ``pair`` (waits for a second request), and ``to URL`` (redirects).
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.files: dict[str, bytes] = {}
        self.faults: defaultdict[str, deque[str]] = defaultdict(deque)
        self.always: dict[str, str] = {}
        self.choose: Callable[[str], str] = lambda name: ""
        """Returns the fault of a request, also of HEAD requests, for which only a status and ``close`` matter."""
        self.headers: dict[str, list[tuple[str, str]]] = {}
        """Additional headers by file."""
        self.refuses_head = self.hides_size = False
        self.log: list[tuple[str, str]] = []
        """Method and file of every request."""
        self.seen_headers: list[dict[str, str]] = []
        """Headers of every request."""
        self.stopped = threading.Event()
        self.pair = threading.Barrier(2)
        self.active = self.most_active = 0
        """Number of requests that are being answered, now and at most."""
        self.lock = threading.Lock()

    def gets(self, name: str) -> int:
        """Return the number of GET requests for a file."""
        return Counter(self.log)["GET", name]

    def fault(self, name: str) -> str:
        """Return the fault of the next GET for a file, or an empty string."""
        with self.lock:
            queued = self.faults[name]
            return queued.popleft() if queued else self.always.get(name) or self.choose(name)


@contextmanager
def fault_server() -> Iterator[FaultServer]:
    """Serve until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # otherwise the body waits 40 ms for the acknowledgement of the headers

        def do_HEAD(self) -> None:
            known.log.append(("HEAD", self._name()))
            if known.refuses_head:
                self._send(405, b"", [], with_body=False)
            elif known.hides_size and self._name() in known.files:
                self._send(200, b"", [], with_body=False)
            elif (fault := known.always.get(self._name()) or known.choose(self._name()))[:3].isdigit():
                self._send(int(fault[:3]), b"", [], with_body=False)
            elif fault == "close":
                self.close_connection = True
            elif self._name() not in known.files:
                self._send(404, b"", [], with_body=False)
            else:
                data = known.files[self._name()]
                self._send(200, data, known.headers.get(self._name(), []), with_body=False)

        def do_GET(self) -> None:
            name = self._name()
            known.log.append(("GET", name))
            known.seen_headers.append(dict(self.headers))
            with known.lock:
                known.active += 1
                known.most_active = max(known.active, known.most_active)
            try:
                with contextlib.suppress(ConnectionError):  # the client does not wait for the end
                    self._answer(name, known.fault(name), known.headers.get(name, []))
            finally:
                with known.lock:
                    known.active -= 1

        def log_message(self, *_: object) -> None:
            """Do not log requests."""

        def _name(self) -> str:
            return unquote(urlsplit(self.path).path).lstrip("/")

        def _answer(self, name: str, fault: str, headers: list[tuple[str, str]]) -> None:
            if fault == "hang":
                known.stopped.wait()
            if fault == "pair":
                known.pair.wait(timeout=60)
            if fault in ("hang", "close"):
                self.close_connection = True
            elif fault.startswith("to "):
                self._send(302, b"", [("Location", fault[3:])])
            elif fault[:3].isdigit():
                self._send(int(fault[:3]), b"error page", [parse_header(fault[3:])] if ":" in fault else [])
            elif name not in known.files:
                self._send(404, b"error page", [])
            else:
                self._send_file(known.files[name], fault, headers)

        def _send_file(self, data: bytes, fault: str, headers: list[tuple[str, str]]) -> None:
            first, end = self._range(len(data))
            if first >= len(data) > 0:
                self._send(416, b"", [("Content-Range", f"bytes */{len(data)}"), *headers])
                return
            if "Range" not in self.headers or fault == "whole":
                self._send(200, data, headers, fault=fault)
                return
            if fault == "wrong":
                first, end = 0, end - first
            if fault == "short":
                end = first + (end - first) // 2
            described = ("Content-Range", f"bytes {first}-{end - 1}/{len(data)}")
            self._send(206, data[first:end], [described, *headers], fault=fault)

        def _send(
            self, status: int, body: bytes, headers: list[tuple[str, str]], *, with_body: bool = True, fault: str = ""
        ) -> None:
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            if "chunked" in fault or known.hides_size:
                self.send_header("Transfer-Encoding", "chunked")
            else:
                self.send_header("Content-Length", "1000000000" if fault == "huge" else str(len(body)))
            self.end_headers()
            if with_body:
                self._send_body(body, fault)

        def _send_body(self, body: bytes, fault: str) -> None:
            if fault in ("cut", "stall", "cut chunked"):
                half = body[: len(body) // 2]
                self.wfile.write(f"{len(body):x}\r\n".encode() + half if "chunked" in fault else half)
                if fault == "stall":
                    known.stopped.wait()
                self.close_connection = True
            elif fault == "trickle":
                for number in range(len(body)):
                    self.wfile.write(body[number : number + 1])
                    if known.stopped.wait(0.05):
                        break
                self.close_connection = True
            elif fault == "chunked" or known.hides_size:
                self.wfile.write(f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n")
            else:
                self.wfile.write(body)

        def _range(self, size: int) -> tuple[int, int]:
            if "Range" not in self.headers:
                return 0, size
            first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
            return int(first), min(int(last or size - 1) + 1, size)

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """Do not print that a client closed its connection."""

    server = Server(("127.0.0.1", 0), Handler)
    known = FaultServer(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield known
    finally:
        known.stopped.set()
        server.shutdown()
        thread.join()
        server.server_close()


def parse_header(text: str) -> tuple[str, str]:
    """Split ``Name: value``."""
    name, _, value = text.strip().partition(": ")
    return name, value
