"""Serve the page, by default on the loopback interface only, without analytics or requests to other hosts."""

import os
import socket
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import uvicorn
from fastapi import FastAPI

from pipelines.app.backend import TuningBackend
from pipelines.app.http_guard import MAX_IMAGE_BYTES, RouteFilter
from pipelines.errors import RunError
from pipelines.runtime.console import console


def serve(backend: TuningBackend, host: str, port: int) -> None:
    """Serve the page until interrupted. Raises RunError if the port is in use."""
    with closing(_bind_socket(host, port)) as listener, TemporaryDirectory(prefix="e4t-app-") as folder:
        os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
        app = create_app(backend, Path(folder))
        display_host = f"[{host}]" if ":" in host else host
        console.print(f"page: http://{display_host}:{listener.getsockname()[1]}  press Ctrl-C to stop", soft_wrap=True)
        config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=2)
        uvicorn.Server(config).run(sockets=[listener])


def _bind_socket(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise RunError(f"{host}:{port} cannot be bound ({error.strerror}); set another --host or --port") from error


def create_app(backend: TuningBackend, folder: Path) -> FastAPI:
    """Build the web application. Uploads and downloads are stored in ``folder``."""
    import gradio as gr  # imported here because it reads environment variables at import

    from pipelines.app.page import CSS_PATH, HEAD_HTML, Page, make_theme
    from pipelines.app.session import Session

    app, instance_id = FastAPI(openapi_url=None), uuid4().hex
    app.get("/alive")(lambda: instance_id)
    gr.mount_gradio_app(
        app,
        Page(Session(backend, folder), backend.releases).blocks,
        path="/",
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        show_error=False,
        max_file_size=MAX_IMAGE_BYTES,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        theme=make_theme(),
        css_paths=CSS_PATH,
        head=HEAD_HTML,
    )
    app.add_middleware(RouteFilter, folder=folder)
    return app
