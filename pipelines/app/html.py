"""Build the HTML fragments of the page. All user input is escaped."""

import base64
import io
from collections.abc import Sequence
from html import escape

from PIL import Image

from encoder.images import center_crop

MAX_DISPLAY_SIDE = 512
"""Longest side in pixels of an image shown on the page; downloads have full resolution."""
EMPTY_PREVIEWS_TEXT = "Your image and previews of the concept appear here, step by step."
EMPTY_GALLERY_TEXT = "Generated images appear here, one row per prompt."


def pluralize(number: int, thing: str) -> str:
    """Return a count with its noun: ``1 step``, ``2 steps``."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def status(text: str) -> str:
    """Build a status line."""
    return f'<p class="status">{escape(text)}</p>'


def error(exception: Exception) -> str:
    """Build an error line."""
    return f'<p class="status error">{escape(str(exception))}</p>'


def progress(text: str, done: int, total: int) -> str:
    """Build a status line with a progress bar below it."""
    return f'{status(text)}<progress value="{done}" max="{total}" aria-label="{escape(text)}"></progress>'


def preview_strip(image: Image.Image | None, previews: Sequence[tuple[int, Image.Image]]) -> str:
    """Build the row with the input image and the previews, each labeled with its step."""
    if image is None:
        return _placeholder(EMPTY_PREVIEWS_TEXT)
    frames = [_frame(center_crop(image), "Your image", "your image, as the model sees it", "input-image")]
    for step, preview in previews:
        label = f"After {pluralize(step, 'step')}" if step else "Before tuning"
        frames.append(_frame(preview, label, f"preview, {label.lower()}"))
    return f'<div class="preview-strip">{"".join(frames)}</div>'


def gallery(prompts: Sequence[str], rows: Sequence[Sequence[Image.Image]]) -> str:
    """Build one row of images per prompt, variants side by side."""
    if not rows:
        return _placeholder(EMPTY_GALLERY_TEXT)
    parts = []
    for prompt, row in zip(prompts, rows, strict=False):
        frames = [_frame(image, "", f"{prompt}, variant {index}") for index, image in enumerate(row, start=1)]
        parts.append(f'<section><h3>{escape(prompt)}</h3><div class="variants">{"".join(frames)}</div></section>')
    return f'<div class="gallery">{"".join(parts)}</div>'


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
