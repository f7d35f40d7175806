"""Serving the page: to this machine alone unless told, and without a word to anybody else."""

import os
import socket
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import uvicorn
from fastapi import FastAPI

from pipelines.app.backend import Studio
from pipelines.app.http_guard import LARGEST_PICTURE, Guard
from pipelines.errors import RunError
from pipelines.runtime.console import console


def serve(studio: Studio, host: str, port: int) -> None:
    """Serve until interrupted. Raises RunError if the port is taken."""
    with closing(_listening(host, port)) as listener, TemporaryDirectory(prefix="e4t-app-") as folder:
        os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
        app = application(studio, Path(folder))
        shown = f"[{host}]" if ":" in host else host
        console.print(f"page: http://{shown}:{listener.getsockname()[1]}  end it with Ctrl-C", soft_wrap=True)
        config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=2)
        uvicorn.Server(config).run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise RunError(f"{host}:{port} cannot be served ({error.strerror}); give another --host or --port") from error


def application(studio: Studio, folder: Path) -> FastAPI:
    """The page as a web application whose files lie in ``folder``."""
    import gradio as gr  # reads its settings from the environment when it is imported

    from pipelines.app.page import HEAD, STYLE, Page, theme
    from pipelines.app.session import Desk

    app, started = FastAPI(openapi_url=None), uuid4().hex
    app.get("/alive")(lambda: started)
    gr.mount_gradio_app(
        app,
        Page(Desk(studio, folder), studio.releases).blocks,
        path="/",
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        show_error=False,
        max_file_size=LARGEST_PICTURE,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        theme=theme(),
        css_paths=STYLE,
        head=HEAD,
    )
    app.add_middleware(Guard, folder=folder)
    return app
