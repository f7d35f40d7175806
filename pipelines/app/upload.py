"""The widget that takes a picture."""

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import ImageData


def image_upload(**settings: Any) -> gr.Image:  # noqa: ANN401 - Gradio's
    """A picture as the path that it was uploaded to: whether it is one is the desk's to say.

    A request names that path itself. Left alone, Gradio would copy whatever file of this machine it names to where it
    can be fetched, or load it from whatever host. The methods are put on the widget since a class of our own would make
    Gradio write a file beside this one.
    """
    widget = gr.Image(sources=["upload"], buttons=[], **settings)
    folder, move_to_cache = Path(widget.GRADIO_CACHE).resolve(), widget.async_move_resource_to_block_cache

    def check_uploaded(path: str | Path | None) -> str:
        if path is None or not Path(path).resolve().is_relative_to(folder):
            raise gr.Error("This picture was not uploaded; choose it again.", print_exception=False)
        return str(path)

    async def kept(path: str | Path | None) -> str | None:
        return await move_to_cache(check_uploaded(path))

    def preprocess(payload: ImageData | None) -> str | None:
        return check_uploaded(payload.path) if payload else None

    widget.async_move_resource_to_block_cache, widget.preprocess = kept, preprocess  # type: ignore[method-assign,assignment]
    return widget
