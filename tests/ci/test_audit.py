"""The audit against a service of the tests' own: silent, clean, and with a finding."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("pip_audit", reason="needs pip-audit (extra dev)")
SCRIPT = Path(__file__).parents[2] / ".ci" / "audit.py"


class Osv(BaseHTTPRequestHandler):
    """Knows of vulnerabilities by package."""

    known: dict[str, str] = {}  # noqa: RUF012 - each test's own

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["package"]["name"]
        affected = [{"package": {"name": asked, "ecosystem": "PyPI"}}]
        found = [{"id": self.known[asked], "summary": "bad", "affected": affected}] if asked in self.known else []
        body = json.dumps({"vulns": found} if found else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quietly."""


@pytest.fixture
def service() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Osv) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()


def audit(service: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, str(SCRIPT), service], capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    return done.returncode, done.stdout + done.stderr


def test_a_service_that_cannot_be_reached_is_one_line_and_no_failure() -> None:
    code, said = audit("http://127.0.0.1:9/v1/query")
    assert code == 0
    assert said.count("\n") == 1
    assert said.startswith("audit: not done, http://127.0.0.1:9/v1/query cannot be reached")


@pytest.mark.slow
def test_nothing_found_is_fine_and_what_is_found_fails(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Osv, "known", {})
    code, said = audit(service)
    assert (code, "0 vulnerabilities" in said) == (0, True), said
    monkeypatch.setattr(Osv, "known", {"numpy": "MADE-UP-1"})
    code, said = audit(service)
    assert code == 1
    assert "numpy" in said
    assert "MADE-UP-1, fixed in nowhere yet" in said
