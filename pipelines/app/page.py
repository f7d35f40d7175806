"""The page's widgets, and which act of the visitor's each sets off."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from encoder.config import SampleConfig, TuneConfig
from encoder.releases.release import Release
from pipelines.app import html as pieces
from pipelines.app.session import KEPT_HOURS, MOST_PROMPTS, WAITING, Desk, Shown
from pipelines.app.upload import upload

STYLE = Path(__file__).with_name("page.css")
HEAD = f"<script>{Path(__file__).with_name('page.js').read_text()}</script>"
TITLE = """<header><h1>One picture, any scene</h1>
<p>Teach the model someone or something from a single picture, then paint it from words.</p></header>"""
DROP = "Drop a picture here, or click to choose one"
PROMPTS = "a portrait of a laughing *s in a red shirt\na portrait of a *s on a teal background"
HOURS = KEPT_HOURS * 3600
Changes = dict[Any, Any]
"""New values by widget."""


def theme() -> gr.themes.Base:
    """Quiet colours, and fonts that every machine has."""
    fonts = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
    mono = ("ui-monospace", "monospace")
    base = gr.themes.Base(primary_hue="teal", neutral_hue="stone", radius_size="lg", font=fonts, font_mono=mono)
    return base.set(
        body_background_fill="*neutral_100",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_background_fill="white",
        block_border_width="0px",
        block_padding="0px",
        block_info_text_color="*neutral_600",
        block_label_text_color="*neutral_700",
        block_title_text_weight="500",
        border_color_primary="*neutral_300",
        block_title_text_color="*neutral_800",
        block_title_text_color_dark="*neutral_200",
        block_background_fill_dark="*neutral_900",
        body_background_fill_dark="*neutral_950",
        input_background_fill="*neutral_50",
        input_border_width="1px",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_text_color="white",
        button_secondary_background_fill="*neutral_200",
        button_large_text_weight="500",
        color_accent="*primary_700",
        slider_color="*primary_700",
    )


class Page:
    """Two acts from top to bottom: teach it, paint it."""

    def __init__(self, desk: Desk, releases: Mapping[str, Release]) -> None:
        """Releases by what the visitor knows them by; the first one is chosen, and its numbers of steps stand there."""
        self._desk, self._releases = desk, list(releases)
        first = next(iter(releases.values()))
        with gr.Blocks(title="e4t", analytics_enabled=False, delete_cache=(600, HOURS)) as self.blocks:
            gr.HTML(TITLE)
            self.concept = gr.State(None, time_to_live=HOURS)
            with gr.Row(elem_classes="act"):
                self._teach(first.tuning.get("steps", TuneConfig.steps))
            with gr.Row(elem_classes="act"):
                self._paint(first.sampling.get("steps", SampleConfig.num_inference_steps))
            self._wire()

    def _teach(self, steps: int) -> None:
        with gr.Column(scale=2, min_width=280):
            gr.HTML("<h2>1 &ensp;Teach it</h2>")
            self.release = gr.Dropdown(self._releases, label="Release", visible=len(self._releases) > 1)
            self.picture = upload(label="Picture", height=220, placeholder=DROP, elem_id="picture")
            about = "5 to 15 suit most pictures; with many more it learns the picture by heart."
            self.steps = gr.Slider(1, 60, steps, step=1, label="Tuning steps", info=about, buttons=[], elem_id="steps")
            with gr.Row():
                self.tune = gr.Button("Tune", variant="primary", min_width=100, elem_id="tune")
                self.stop = gr.Button("Stop", interactive=False, min_width=100, elem_id="stop")
            self.tuning = gr.HTML(pieces.said(""), elem_id="tuning")
        with gr.Column(scale=3, min_width=280):
            self.film = gr.HTML(pieces.film(None, []), elem_id="film")

    def _paint(self, steps: int) -> None:
        with gr.Column(scale=2, min_width=280):
            gr.HTML("<h2>2 &ensp;Paint it</h2>")
            about = "*s stands for what was taught."
            self.prompts = gr.Textbox(
                PROMPTS,
                lines=3,
                max_lines=MOST_PROMPTS,
                label="Prompts, one a line",
                info=about,
                buttons=[],
                elem_id="prompts",
            )
            self.variants = gr.Slider(1, 4, 3, step=1, label="Variants of each", buttons=[], elem_id="variants")
            with gr.Accordion("More settings", open=False, elem_id="more"):
                self.sampling = gr.Slider(2, 100, steps, step=1, label="Sampling steps", buttons=[], elem_id="sampling")
                self.seed = gr.Number(0, precision=0, minimum=0, maximum=2**31, label="Seed", elem_id="seed")
            self.generate = gr.Button("Generate", variant="primary", elem_id="generate")
            self.painting = gr.HTML(pieces.said(""), elem_id="painting")
            with gr.Row():
                self.concept_file = _download("Download concept", "concept-file")
                self.bundle = _download("Download pictures", "bundle")
        with gr.Column(scale=3, min_width=280):
            self.wall = gr.HTML(pieces.wall([], []), elem_id="wall")

    def _wire(self) -> None:
        """Gradio's own queue lets all that may stand in the desk's line through: there they are told their place."""
        desk, shown = self._desk, self._changes

        def tune(request: gr.Request, *given: Any) -> Iterator[Changes]:  # noqa: ANN401 - the widgets' values
            yield from map(shown, desk.tune(_visitor(request), *given))

        def paint(*given: Any) -> Iterator[Changes]:  # noqa: ANN401
            yield from map(shown, desk.paint(*given))

        def gone(request: gr.Request) -> None:
            desk.stop(_visitor(request))

        outputs = [self.tuning, self.film, self.stop, self.concept, self.concept_file]
        quick: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": None}
        slow = quick | {"concurrency_id": "desk", "concurrency_limit": 2 * WAITING}
        self.picture.change(lambda path: shown(desk.receive(path)), self.picture, outputs, **quick)
        self.tune.click(tune, [self.release, self.picture, self.steps], outputs, **slow)
        self.stop.click(gone, **quick)
        asked = [self.concept, self.prompts, self.variants, self.sampling, self.seed]
        self.generate.click(paint, asked, [self.painting, self.wall, self.bundle], **slow)
        self.blocks.unload(gone)
        self.blocks.queue(max_size=2 * WAITING)

    def _changes(self, shown: Shown) -> Changes:
        """What it means for the widgets."""
        lines = {self.tuning: shown.tuning, self.film: shown.film, self.painting: shown.painting, self.wall: shown.wall}
        changes: Changes = {widget: html for widget, html in lines.items() if html is not None}
        if shown.busy is not None:
            changes[self.stop] = gr.update(interactive=shown.busy)
        if shown.concept:
            changes |= {
                self.concept: shown.concept,
                self.concept_file: gr.update(value=shown.concept, interactive=True),
            }
        if shown.bundle:
            changes[self.bundle] = gr.update(value=shown.bundle, interactive=True)
        return changes


def _download(label: str, name: str) -> gr.DownloadButton:
    return gr.DownloadButton(label, interactive=False, min_width=100, elem_id=name)


def _visitor(request: gr.Request) -> str:
    return str(request.session_hash)
