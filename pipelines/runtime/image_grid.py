"""Draw images as a labelled grid."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

GAP = 6


def labelled_grid(
    rows: Sequence[Sequence[Image.Image]], labels: Sequence[str], *, cell: int = 128, label_height: int = 36
) -> Image.Image:
    """Rows of pictures under labelled columns."""
    width = GAP + len(labels) * (cell + GAP)
    grid = Image.new("RGB", (width, label_height + len(rows) * (cell + GAP)), "white")
    draw, font = ImageDraw.Draw(grid), ImageFont.load_default(12)
    for column, label in enumerate(labels):
        center = GAP + column * (cell + GAP) + cell // 2
        draw.multiline_text((center, label_height // 2), label, fill="black", font=font, anchor="mm", align="center")
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            place = (GAP + column * (cell + GAP), label_height + row * (cell + GAP))
            grid.paste(picture.resize((cell, cell), Image.Resampling.LANCZOS), place)
    return grid
