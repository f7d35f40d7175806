"""Draw images as a labeled grid."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

GAP = 6
"""Pixels between images."""


def labeled_grid(
    rows: Sequence[Sequence[Image.Image]], labels: Sequence[str], *, cell_size: int = 128, label_height: int = 36
) -> Image.Image:
    """Draw rows of images, resized to ``cell_size`` pixels, under one label per column."""
    width = GAP + len(labels) * (cell_size + GAP)
    grid = Image.new("RGB", (width, label_height + len(rows) * (cell_size + GAP)), "white")
    draw, font = ImageDraw.Draw(grid), ImageFont.load_default(12)
    for column, label in enumerate(labels):
        center = GAP + column * (cell_size + GAP) + cell_size // 2
        draw.multiline_text((center, label_height // 2), label, fill="black", font=font, anchor="mm", align="center")
    for row, images in enumerate(rows):
        for column, image in enumerate(images):
            position = (GAP + column * (cell_size + GAP), label_height + row * (cell_size + GAP))
            grid.paste(image.resize((cell_size, cell_size), Image.Resampling.LANCZOS), position)
    return grid
