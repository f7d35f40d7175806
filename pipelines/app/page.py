"""The widgets of the page and the actions that they trigger."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from encoder.releases.release import Release
from pipelines.app import html
from pipelines.app.session import FILE_TTL_HOURS, MAX_PROMPTS, MAX_WAITING, PageUpdate, Session
from pipelines.app.upload import image_upload

CSS_PATH = Path(__file__).with_name("page.css")
HEAD_HTML = f"<script>{Path(__file__).with_name('page.js').read_text()}</script>"
TITLE_HTML = """<header><h1>One image, any scene</h1>
<p>Tune the model on a single image of someone or something, then generate new images from prompts.</p></header>"""
UPLOAD_HINT = "Drop an image here, or click to select one"
EXAMPLE_PROMPTS = "a portrait of a laughing *s in a red shirt\na portrait of a *s on a teal background"
FILE_TTL_SECONDS = FILE_TTL_HOURS * 3600
QUEUE_POLL_SECONDS = 0.05
"""Interval at which Gradio's queue looks for events; also the longest delay of a click."""
WidgetUpdates = dict[Any, Any]
"""New values, keyed by widget."""


def make_theme() -> gr.themes.Base:
    """Build the theme from neutral colors and system fonts, so that no font is downloaded."""
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
    """The page: a section for tuning and a section for generation."""

    def __init__(self, session: Session, releases: Mapping[str, Release]) -> None:
        """Build the widgets.

        ``releases`` is keyed by display name; the first one is selected and provides the defaults.
        """
        self._session, self._release_names = session, list(releases)
        first = next(iter(releases.values()))
        with gr.Blocks(title="e4t", analytics_enabled=False, delete_cache=(600, FILE_TTL_SECONDS)) as self.blocks:
            gr.HTML(TITLE_HTML)
            self.concept = gr.State(None, time_to_live=FILE_TTL_SECONDS)
            with gr.Row(elem_classes="section"):
                self._build_tune_section(first.tuning.steps)
            with gr.Row(elem_classes="section"):
                self._build_generate_section(first.sampling.num_inference_steps)
            self._connect_events()

    def _build_tune_section(self, steps: int) -> None:
        with gr.Column(scale=2, min_width=280):
            gr.HTML("<h2>1 &ensp;Tune</h2>")
            self.release = gr.Dropdown(self._release_names, label="Release", visible=len(self._release_names) > 1)
            self.image = image_upload(label="Image", height=220, placeholder=UPLOAD_HINT, elem_id="image")
            info = "5 to 15 steps suit most images; many more steps overfit to the image."
            self.steps = gr.Slider(1, 60, steps, step=1, label="Tuning steps", info=info, buttons=[], elem_id="steps")
            with gr.Row():
                self.tune_button = gr.Button("Tune", variant="primary", min_width=100, elem_id="tune")
                self.stop_button = gr.Button("Stop", interactive=False, min_width=100, elem_id="stop")
            self.tuning_status = gr.HTML(html.status(""), elem_id="tuning")
        with gr.Column(scale=3, min_width=280):
            self.preview_strip = gr.HTML(html.preview_strip(None, []), elem_id="preview-strip")

    def _build_generate_section(self, steps: int) -> None:
        with gr.Column(scale=2, min_width=280):
            gr.HTML("<h2>2 &ensp;Generate</h2>")
            info = "*s stands for the tuned concept."
            self.prompts = gr.Textbox(
                EXAMPLE_PROMPTS,
                lines=3,
                max_lines=MAX_PROMPTS,
                label="Prompts, one per line",
                info=info,
                buttons=[],
                elem_id="prompts",
            )
            self.variants = gr.Slider(1, 4, 3, step=1, label="Variants per prompt", buttons=[], elem_id="variants")
            with gr.Accordion("More settings", open=False, elem_id="more"):
                self.sampling_steps = gr.Slider(
                    2, 100, steps, step=1, label="Sampling steps", buttons=[], elem_id="sampling"
                )
                self.seed = gr.Number(0, precision=0, minimum=0, maximum=2**31, label="Seed", elem_id="seed")
            self.generate_button = gr.Button("Generate", variant="primary", elem_id="generate")
            self.generation_status = gr.HTML(html.status(""), elem_id="generation")
            with gr.Row():
                self.concept_file = _download("Download concept", "concept-file")
                self.zip_file = _download("Download images", "zip")
        with gr.Column(scale=3, min_width=280):
            self.gallery = gr.HTML(html.gallery([], []), elem_id="gallery")

    def _connect_events(self) -> None:
        """Connect widgets to actions.

        Gradio's queue admits every visitor that the session's queue can hold: Gradio's own queue cannot show a place in
        the queue inside the page or stop waiting when the visitor clicks Stop, so the session queues visitors itself.
        """
        session, to_widget_updates = self._session, self._to_widget_updates

        def tune(request: gr.Request, *values: Any) -> Iterator[WidgetUpdates]:  # noqa: ANN401 - the widgets' values
            yield from map(to_widget_updates, session.tune(_visitor_id(request), *values))

        def generate(*values: Any) -> Iterator[WidgetUpdates]:  # noqa: ANN401
            yield from map(to_widget_updates, session.generate(*values))

        def request_stop(request: gr.Request) -> None:
            session.stop(_visitor_id(request))

        outputs = [self.tuning_status, self.preview_strip, self.stop_button, self.concept, self.concept_file]
        instant_kwargs: dict[str, Any] = {
            "api_visibility": "private",
            "show_progress": "hidden",
            "concurrency_limit": None,
        }
        queued_kwargs = instant_kwargs | {"concurrency_id": "session", "concurrency_limit": 2 * MAX_WAITING}
        self.image.change(
            lambda path: to_widget_updates(session.on_upload(path)), self.image, outputs, **instant_kwargs
        )
        self.tune_button.click(tune, [self.release, self.image, self.steps], outputs, **queued_kwargs)
        self.stop_button.click(request_stop, **instant_kwargs)
        generate_inputs = [self.concept, self.prompts, self.variants, self.sampling_steps, self.seed]
        self.generate_button.click(
            generate, generate_inputs, [self.generation_status, self.gallery, self.zip_file], **queued_kwargs
        )
        self.blocks.unload(request_stop)
        self.blocks.queue(max_size=2 * MAX_WAITING)
        # Gradio looks for events a thousand times a second, which takes a tenth of a core while nobody uses the page.
        queue = self.blocks._queue
        queue.sleep_when_free = queue.progress_update_sleep_when_free = QUEUE_POLL_SECONDS

    def _to_widget_updates(self, update: PageUpdate) -> WidgetUpdates:
        """Translate an update of the page to values of widgets."""
        html_by_widget = {
            self.tuning_status: update.tuning_status,
            self.preview_strip: update.preview_strip,
            self.generation_status: update.generation_status,
            self.gallery: update.gallery,
        }
        updates: WidgetUpdates = {widget: html for widget, html in html_by_widget.items() if html is not None}
        if update.can_stop is not None:
            updates[self.stop_button] = gr.update(interactive=update.can_stop)
        if update.concept_path:
            updates |= {
                self.concept: update.concept_path,
                self.concept_file: gr.update(value=update.concept_path, interactive=True),
            }
        if update.zip_path:
            updates[self.zip_file] = gr.update(value=update.zip_path, interactive=True)
        return updates


def _download(label: str, name: str) -> gr.DownloadButton:
    return gr.DownloadButton(label, interactive=False, min_width=100, elem_id=name)


def _visitor_id(request: gr.Request) -> str:
    return str(request.session_hash)
