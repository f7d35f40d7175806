"""What of the server can be reached: what the page needs, no other file, no large body, no other host."""

from pathlib import Path

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_PICTURE = 20 * 2**20
LARGEST_BODY = LARGEST_PICTURE + 100_000
"""Of a request: a picture, and what is around it."""
GETS = (
    "/assets/", "/static/", "/theme.css", "/manifest.json", "/favicon.ico", "/alive",
    "/gradio_api/heartbeat/", "/gradio_api/queue/data", "/gradio_api/upload_progress", "/gradio_api/startup-events",
)  # fmt: skip
POSTS = ("/gradio_api/queue/join", "/gradio_api/upload", "/gradio_api/cancel")
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "  # Gradio's own scripts are inline
    "form-action 'none'; base-uri 'self'; frame-ancestors 'none'; object-src 'none'"
)


class Guard:
    """Stands before Gradio's routes, of which a page like this one needs a few."""

    def __init__(self, app: ASGIApp, folder: Path) -> None:
        """``folder`` is where Gradio lays uploads and downloads."""
        self._app, self._files = app, f"/gradio_api/file={folder}/"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request as ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif not self._is_open(scope["method"], scope["path"]):
            await PlainTextResponse("There is nothing here.", 404)(scope, receive, send)
        elif scope["method"] == "POST" and not 0 <= _length(scope) <= LARGEST_BODY:
            await PlainTextResponse("This is larger than a picture may be.", 413)(scope, receive, send)
        else:
            await self._app(scope, receive, _with_policy(send))

    def _is_open(self, method: str, path: str) -> bool:
        if ".." in path.split("/"):
            return False
        if method == "POST":
            return path in POSTS
        return method in ("GET", "HEAD") and (path == "/" or path.startswith((*GETS, self._files)))


def _length(scope: Scope) -> int:
    """Of the body, in bytes; -1 if the request does not say."""
    stated = dict(scope["headers"]).get(b"content-length", b"")
    return int(stated) if stated.isdigit() else -1


def _with_policy(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [
                *message["headers"],
                (b"content-security-policy", POLICY.encode()),
                (b"x-content-type-options", b"nosniff"),
                (b"referrer-policy", b"no-referrer"),
            ]
        await send(message)

    return sent
