"""Restrict the server to the routes that the page needs: no other file, no large body, no other host."""

from pathlib import Path

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_IMAGE_BYTES = 20 * 2**20
MAX_BODY_BYTES = MAX_IMAGE_BYTES + 100_000
"""Largest request body in bytes: an image and the multipart framing around it."""
ALLOWED_GET_PREFIXES = (
    "/assets/", "/static/", "/theme.css", "/manifest.json", "/favicon.ico", "/alive",
    "/gradio_api/heartbeat/", "/gradio_api/queue/data", "/gradio_api/upload_progress", "/gradio_api/startup-events",
)  # fmt: skip
ALLOWED_POST_PATHS = ("/gradio_api/queue/join", "/gradio_api/upload", "/gradio_api/cancel")
CONTENT_SECURITY_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "  # Gradio's own scripts are inline
    "form-action 'none'; base-uri 'self'; frame-ancestors 'none'; object-src 'none'"
)


class RouteFilter:
    """ASGI middleware that rejects every route of Gradio that the page does not use."""

    def __init__(self, app: ASGIApp, folder: Path) -> None:
        """``folder`` is where Gradio stores uploads and downloads."""
        self._app, self._file_prefix = app, f"/gradio_api/file={folder}/"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle an ASGI request: reject it, or pass it on with security headers added to the response."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif not self._is_allowed(scope["method"], scope["path"]):
            await PlainTextResponse("Not found.", 404)(scope, receive, send)
        elif scope["method"] == "POST" and not 0 <= _content_length(scope) <= MAX_BODY_BYTES:
            await PlainTextResponse("The image is larger than 20 MB.", 413)(scope, receive, send)
        else:
            await self._app(scope, receive, _with_security_headers(send))

    def _is_allowed(self, method: str, path: str) -> bool:
        if ".." in path.split("/"):
            return False
        if method == "POST":
            return path in ALLOWED_POST_PATHS
        return method in ("GET", "HEAD") and (
            path == "/" or path.startswith((*ALLOWED_GET_PREFIXES, self._file_prefix))
        )


def _content_length(scope: Scope) -> int:
    """Return the body size in bytes, or -1 without a valid Content-Length header."""
    header = dict(scope["headers"]).get(b"content-length", b"")
    return int(header) if header.isdigit() else -1


def _with_security_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [
                *message["headers"],
                (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
                (b"x-content-type-options", b"nosniff"),
                (b"referrer-policy", b"no-referrer"),
            ]
        await send(message)

    return send_with_headers
