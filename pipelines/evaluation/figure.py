"""Draw the comparison figure: the input image of each concept beside the images of every system for each prompt."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from PIL import Image

from pipelines.evaluation.cases import Case
from pipelines.evaluation.runner import Comparison

CELL_INCHES, LABEL_WIDTH = 1.15, 18
"""Side of a printed image in inches; maximum characters per line of a label."""
FIGURE = "figure"


def draw_figure(comparison: Comparison) -> list[Path]:
    """Write figure.png and figure.pdf: one row per prompt of the first ``num_grid_concepts`` concepts.

    Images of a system are those after its largest number of tuning steps.
    """
    cases = comparison.cases[: comparison.recipe.evaluate.num_grid_concepts]
    has_references = bool(cases[0].reference_images)
    titles = ["input", *(system.name for system in comparison.systems), *(["reference"] if has_references else [])]
    rows = [(case, index) for case in cases for index in range(len(case.prompts))]
    figure = Figure(figsize=((len(titles) + 1) * CELL_INCHES, len(rows) * CELL_INCHES + 0.6), layout="constrained")
    axes = figure.subplots(len(rows), len(titles), squeeze=False)
    images_by_concept = {case.concept: _final_images(comparison, case) for case in cases}
    for row_index, (case, index) in enumerate(rows):
        images = [case.images[0] if index == 0 else None, *(each[index] for each in images_by_concept[case.concept])]
        images += [([case.images[0], *case.reference_images])[index]] if has_references else []
        _draw_row(axes[row_index], images, case.prompts[index])
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(textwrap.fill(title.replace(", ", ",\n"), LABEL_WIDTH), fontsize=8)
    return save_figure(figure, comparison.output / FIGURE)


def _final_images(comparison: Comparison, case: Case) -> list[list[Image.Image]]:
    """Return the images for the case's prompts, by system, after its largest number of tuning steps."""
    return [comparison.results.load(system, case).images[system.steps[-1]] for system in comparison.systems]


def _draw_row(axes: Sequence, images: Sequence[Image.Image | None], prompt: str) -> None:  # type: ignore[type-arg]
    for axis, image in zip(axes, images, strict=True):
        axis.set_xticks([])
        axis.set_yticks([])
        for spine in axis.spines.values():
            spine.set_visible(False)
        if image is not None:
            axis.imshow(image, interpolation="lanczos")
    axes[0].set_ylabel(textwrap.fill(prompt, LABEL_WIDTH), fontsize=6, rotation=0, ha="right", va="center")


def save_figure(figure: Figure, path: Path) -> list[Path]:
    """Save as PNG and as PDF with embedded fonts; equal figures give equal files."""
    written = []
    with mpl.rc_context({"pdf.fonttype": 42}):
        for suffix, metadata in ((".png", {"Software": None}), (".pdf", {"CreationDate": None})):
            written.append(path.with_suffix(suffix))
            figure.savefig(written[-1], dpi=200, metadata=metadata, bbox_inches="tight")
    return written
