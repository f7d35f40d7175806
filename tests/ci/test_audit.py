"""The audit of installed packages against a local OSV service: unreachable, without findings, with one."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("pip_audit", reason="needs pip-audit (extra dev)")
SCRIPT = Path(__file__).parents[2] / ".ci" / "audit"


class Osv(BaseHTTPRequestHandler):
    """A service that knows one vulnerability for each package in ``known``."""

    known: dict[str, str] = {}

    def do_POST(self) -> None:
        package = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["package"]["name"]
        affected = [{"package": {"name": package, "ecosystem": "PyPI"}}]
        found = [{"id": self.known[package], "summary": "bad", "affected": affected}] if package in self.known else []
        body = json.dumps({"vulns": found} if found else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def service() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Osv) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()


def audit(service: str) -> tuple[int, str]:
    environment = os.environ | {"PYTHON": sys.executable}
    result = subprocess.run([str(SCRIPT), service], env=environment, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    return result.returncode, result.stdout + result.stderr


def test_an_unreachable_service_is_reported_in_one_line_and_does_not_fail() -> None:
    code, output = audit("http://127.0.0.1:9/v1/query")
    assert code == 0
    assert output == "audit: skipped, http://127.0.0.1:9/v1/query cannot be reached\n"


def test_the_audit_passes_without_findings_and_fails_with_one(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Osv, "known", {})
    code, output = audit(service)
    assert (code, "No known vulnerabilities found" in output) == (0, True), output
    monkeypatch.setattr(Osv, "known", {"numpy": "MADE-UP-1"})
    code, output = audit(service)
    assert code == 1
    assert "Found 1 known vulnerability in 1 package" in output
    assert "MADE-UP-1" in output
