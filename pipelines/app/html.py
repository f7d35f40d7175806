"""The page's pieces of HTML; whatever a person has written is escaped."""

import base64
import io
from collections.abc import Sequence
from html import escape

from PIL import Image

from encoder.images import center_crop

MAX_DISPLAY_SIDE = 512
"""Pixels, at most, of a picture on the page; downloads have them all."""
EMPTY_PREVIEWS_TEXT = "Your picture and what the model makes of it appear here, step by step."
EMPTY_GALLERY_TEXT = "Your pictures appear here, a row for each prompt."


def pluralize(number: int, thing: str) -> str:
    """``1 step``, ``2 steps``."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def status(text: str) -> str:
    """A line that tells how things are."""
    return f'<p class="said">{escape(text)}</p>'


def error(exception: Exception) -> str:
    """A line that tells what is wrong and what to do."""
    return f'<p class="said refused">{escape(str(exception))}</p>'


def progress(text: str, done: int, total: int) -> str:
    """A line with a bar under it."""
    return f'{status(text)}<progress value="{done}" max="{total}" aria-label="{escape(text)}"></progress>'


def preview_strip(image: Image.Image | None, previews: Sequence[tuple[int, Image.Image]]) -> str:
    """The picture, and what was painted after how many steps."""
    if image is None:
        return _placeholder(EMPTY_PREVIEWS_TEXT)
    frames = [_frame(center_crop(image), "Your picture", "your picture, as the model sees it", "given")]
    for step, preview in previews:
        label = f"After {pluralize(step, 'step')}" if step else "Before tuning"
        frames.append(_frame(preview, label, f"preview, {label.lower()}"))
    return f'<div class="film">{"".join(frames)}</div>'


def gallery(prompts: Sequence[str], rows: Sequence[Sequence[Image.Image]]) -> str:
    """Rows of pictures under their prompts, variants side by side."""
    if not rows:
        return _placeholder(EMPTY_GALLERY_TEXT)
    parts = []
    for prompt, row in zip(prompts, rows, strict=False):
        frames = [_frame(image, "", f"{prompt}, variant {index}") for index, image in enumerate(row, start=1)]
        parts.append(f'<section><h3>{escape(prompt)}</h3><div class="variants">{"".join(frames)}</div></section>')
    return f'<div class="wall">{"".join(parts)}</div>'


def _frame(image: Image.Image, label: str, alt: str, css_class: str = "") -> str:
    caption = f"<figcaption>{escape(label)}</figcaption>" if label else ""
    return f'<figure class="{css_class}"><img src="{_data_url(image)}" alt="{escape(alt)}">{caption}</figure>'


def _data_url(image: Image.Image) -> str:
    thumbnail = image.copy()
    thumbnail.thumbnail((MAX_DISPLAY_SIDE, MAX_DISPLAY_SIDE))
    buffer = io.BytesIO()
    thumbnail.save(buffer, "WEBP", quality=95)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _placeholder(text: str) -> str:
    return f'<p class="empty">{escape(text)}</p>'
