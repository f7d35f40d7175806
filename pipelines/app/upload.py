"""The upload widget."""

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import ImageData


def image_upload(**settings: Any) -> gr.Image:  # noqa: ANN401 - Gradio's
    """Create an image widget whose value is the path of the uploaded file; the file is not decoded here.

    Clients send that path. Without the check below, Gradio would copy any file of this machine that a client names to
    a public folder, or download it from any host. The methods are replaced on the instance, because Gradio writes an
    interface file beside the source of every subclass.
    """
    widget = gr.Image(sources=["upload"], buttons=[], **settings)
    folder, move_to_cache = Path(widget.GRADIO_CACHE).resolve(), widget.async_move_resource_to_block_cache

    def check_uploaded(path: str | Path | None) -> str:
        if path is None or not Path(path).resolve().is_relative_to(folder):
            raise gr.Error("This image was not uploaded; select it again.", print_exception=False)
        return str(path)

    async def move_uploaded_to_cache(path: str | Path | None) -> str | None:
        return await move_to_cache(check_uploaded(path))

    def preprocess(payload: ImageData | None) -> str | None:
        return check_uploaded(payload.path) if payload else None

    widget.async_move_resource_to_block_cache, widget.preprocess = move_uploaded_to_cache, preprocess  # type: ignore[method-assign,assignment]
    return widget
