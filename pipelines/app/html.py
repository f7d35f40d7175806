"""The page's pieces of HTML; whatever a person has written is escaped."""

import base64
import io
from collections.abc import Sequence
from html import escape

from PIL import Image

from encoder.images import center_crop

SHOWN_SIDE = 512
"""Pixels, at most, of a picture on the page; downloads have them all."""
NO_FILM = "Your picture and what the model makes of it appear here, step by step."
NO_WALL = "Your pictures appear here, a row for each prompt."


def counted(number: int, thing: str) -> str:
    """``1 step``, ``2 steps``."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def said(text: str) -> str:
    """A line that tells how things are."""
    return f'<p class="said">{escape(text)}</p>'


def refused(error: Exception) -> str:
    """A line that tells what is wrong and what to do."""
    return f'<p class="said refused">{escape(str(error))}</p>'


def progress(text: str, done: int, total: int) -> str:
    """A line with a bar under it."""
    return f'{said(text)}<progress value="{done}" max="{total}" aria-label="{escape(text)}"></progress>'


def film(picture: Image.Image | None, previews: Sequence[tuple[int, Image.Image]]) -> str:
    """The picture, and what was painted after how many steps."""
    if picture is None:
        return _empty(NO_FILM)
    frames = [_frame(center_crop(picture), "Your picture", "your picture, as the model sees it", "given")]
    for step, preview in previews:
        label = f"After {counted(step, 'step')}" if step else "Before tuning"
        frames.append(_frame(preview, label, f"preview, {label.lower()}"))
    return f'<div class="film">{"".join(frames)}</div>'


def wall(prompts: Sequence[str], rows: Sequence[Sequence[Image.Image]]) -> str:
    """Rows of pictures under their prompts, variants side by side."""
    if not rows:
        return _empty(NO_WALL)
    parts = []
    for prompt, row in zip(prompts, rows, strict=False):
        frames = [_frame(picture, "", f"{prompt}, variant {index}") for index, picture in enumerate(row, start=1)]
        parts.append(f'<section><h3>{escape(prompt)}</h3><div class="variants">{"".join(frames)}</div></section>')
    return f'<div class="wall">{"".join(parts)}</div>'


def _frame(picture: Image.Image, label: str, alt: str, kind: str = "") -> str:
    caption = f"<figcaption>{escape(label)}</figcaption>" if label else ""
    return f'<figure class="{kind}"><img src="{_data_url(picture)}" alt="{escape(alt)}">{caption}</figure>'


def _data_url(picture: Image.Image) -> str:
    shown = picture.copy()
    shown.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    held = io.BytesIO()
    shown.save(held, "WEBP", quality=95)
    return f"data:image/webp;base64,{base64.b64encode(held.getvalue()).decode()}"


def _empty(text: str) -> str:
    return f'<p class="empty">{escape(text)}</p>'
