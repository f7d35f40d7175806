"""Commands that use a release: tune, generate, export, app."""

import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from e4t_errors import ConfigError
from encoder.config import TuneConfig
from pipelines.cli.common import (
    RELEASE_HELP,
    Command,
    CommandParser,
    add_base_arguments,
    add_config_arguments,
    add_pipeline_arguments,
    add_runs_argument,
)
from pipelines.runtime.console import ProgressBar, console

if TYPE_CHECKING:
    from encoder.pipeline import E4TPipeline

DEFAULT_RELEASE = "models/faces"
"""The release that comes with a checkout."""


def add_tune_arguments(parser: CommandParser) -> None:
    """Add the options of ``e4t tune``; those of ``TuneConfig`` replace single settings of the release."""
    from encoder.tuning.presets import METHODS

    parser.add_argument("--image", type=str, nargs="+", required=True, help="One or more images of the concept.")
    parser.add_argument("--output", type=str, default="concept", help="Concept folder to write.")
    parser.add_argument(
        "--method",
        choices=METHODS,
        default="e4t",
        help="Tuning method; all but e4t use only the base model of the release (docs/methods.md).",
    )
    parser.add_argument(
        "--mask", type=str, nargs="+", help="One mask per image, of the same size: white where the concept is."
    )
    parser.add_argument(
        "--caption",
        type=str,
        nargs="+",
        help="One caption per image of all that is not the concept: 'a portrait of a smiling *s'.",
    )
    parser.add_argument(
        "--separate-concepts",
        action="store_true",
        help="Tune one concept per image, into folders below --output, in place of one concept for all images.",
    )
    parser.add_argument(
        "--init-concept", type=str, default=None, help="Concept folder whose learned embedding tuning starts from."
    )
    parser.add_argument(
        "--cache-gib",
        type=float,
        default=10.0,
        help="Size limit in GiB of the concept cache in ~/.cache/e4t; 0 disables it.",
    )
    add_pipeline_arguments(parser)
    add_config_arguments(parser, TuneConfig, optional=True)


def tune(arguments: Namespace, _: list[str]) -> None:
    """Tune a release on one image or several of a concept, and write the concept as a folder.

    Options that default to null keep the setting of the release, or of --method.
    """
    from encoder.releases.release import Release
    from pipelines.registry.resolve import cache_folder, resolve_release
    from pipelines.tuning import ConceptCache, TuneRequest, split_per_image, tune_all

    settings = {field.name: arguments[field.name] for field in fields(TuneConfig)}
    settings = {name: value for name, value in settings.items() if value is not None}
    request = TuneRequest.from_files(
        images=arguments.image,
        masks=arguments.mask,
        captions=arguments.caption,
        output=Path(arguments.output),
        init_concept=arguments.init_concept,
        method=arguments.method,
        settings=settings,
    )
    requests = list(split_per_image(request)) if arguments.separate_concepts else [request]
    release = Release.open(resolve_release(arguments.release, arguments.runs))
    cache = ConceptCache(cache_folder() / "concepts", int(arguments.cache_gib * 2**30))

    def load_pipeline() -> "E4TPipeline":
        return _load_pipeline(arguments, base_only=arguments.method != "e4t")

    with ProgressBar("tuning") as bar:
        for result in tune_all(requests, release, load_pipeline, cache, bar, [arguments.base, arguments.dtype]):
            bar.print(f"concept: {result.folder}  {f'{result.seconds:.1f} s' if result.seconds else 'cached'}")


def add_generate_arguments(parser: CommandParser) -> None:
    """Add the options of ``e4t generate``."""
    parser.add_argument(
        "--prompt", type=str, nargs="+", required=True, help="One or more prompts, in which *s stands for the concept."
    )
    parser.add_argument("--concept", type=str, default=None, help="Concept folder, as `e4t tune` writes it.")
    parser.add_argument("--output", type=str, default="images", help="Folder for the images.")
    parser.add_argument("--count", type=int, default=4, help="Number of images per prompt.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the first image; it counts up by 1 per image.")
    parser.add_argument(
        "--num-inference-steps", type=int, default=None, help="Denoising steps, in place of the release's number."
    )
    parser.add_argument(
        "--guidance-scale", type=float, default=None, help="Classifier-free guidance, in place of the release's scale."
    )
    add_pipeline_arguments(parser)


def generate(arguments: Namespace, _: list[str]) -> None:
    """Generate images of a concept, or of the domain if no concept is given."""
    from encoder.concepts.concept import Concept
    from encoder.model.sampling import seeded_generators
    from encoder.pipeline import BASE_ONLY

    concept = Concept.load(arguments.concept) if arguments.concept else None
    pipe = _load_pipeline(arguments, base_only=concept is not None and concept.release.startswith(BASE_ONLY))
    if concept:
        pipe.load_concept(concept)
    folder = Path(arguments.output)
    folder.mkdir(parents=True, exist_ok=True)
    for index, prompt in enumerate(arguments.prompt):
        started = time.monotonic()
        total = arguments.num_inference_steps
        total = pipe.sample_config.num_inference_steps if total is None else total
        with ProgressBar("sampling") as bar:
            images = pipe(
                [prompt] * arguments.count,
                generator=seeded_generators(arguments.seed, arguments.count),
                num_inference_steps=arguments.num_inference_steps,
                guidance_scale=arguments.guidance_scale,
                callback_on_step_end=_step_progress(bar, total),
            )
        for seed, image in enumerate(images, arguments.seed):
            path = folder / (f"{index:02d}-{seed:04d}.png" if len(arguments.prompt) > 1 else f"{seed:04d}.png")
            image.save(path)
            console.print(f"image: {path}", soft_wrap=True)
        console.print(f"{len(images)} images in {time.monotonic() - started:.1f} s")


def _step_progress(bar: ProgressBar, total: int) -> Callable[..., dict[str, Any]]:
    """Return a ``callback_on_step_end`` that advances a progress bar."""

    def on_step_end(_pipe: object, step_index: int, _timestep: object, tensors: dict[str, Any]) -> dict[str, Any]:
        bar(step_index + 1, total)
        return tensors

    return on_step_end


def _load_pipeline(arguments: Namespace, *, base_only: bool) -> "E4TPipeline":
    from encoder import pipeline
    from pipelines.registry.resolve import resolve_release

    started = time.monotonic()
    pipe = pipeline.E4TPipeline.from_pretrained(
        resolve_release(arguments.release, arguments.runs),
        base=arguments.base,
        device=arguments.device,
        dtype=arguments.dtype,
        base_only=base_only,
    )
    console.print(f"loaded {arguments.release} in {time.monotonic() - started:.1f} s", soft_wrap=True)
    return pipe


def add_export_arguments(parser: CommandParser) -> None:
    """Add the options of ``e4t export``."""
    parser.add_argument("--concept", type=str, required=True, help="Concept folder, as `e4t tune` writes it.")
    parser.add_argument(
        "--token", type=str, default="<concept>", help="Token that diffusers' prompts use for a learned embedding."
    )
    parser.add_argument("--output", type=str, default="diffusers", help="Folder for the files.")


def export(arguments: Namespace, _: list[str]) -> None:
    """Write a concept as the files that diffusers loads, if it is a learned embedding, a LoRA, or both."""
    from encoder.concepts.concept import Concept
    from encoder.concepts.diffusers_io import to_diffusers

    for path in to_diffusers(Concept.load(arguments.concept), arguments.output, token=arguments.token):
        console.print(f"written: {path}")


def add_app_arguments(parser: CommandParser) -> None:
    """Add the options of ``e4t app``."""
    parser.add_argument(
        "--release", type=str, action="append", help=f"{RELEASE_HELP} Repeat the option to offer several."
    )
    parser.add_argument(
        "--host", type=str, default="127.0.0.1", help="Address to listen on; 0.0.0.0 accepts the whole network."
    )
    parser.add_argument("--port", type=int, default=7860, help="TCP port to listen on.")
    add_base_arguments(parser)
    add_runs_argument(parser)


def app(arguments: Namespace, _: list[str]) -> None:
    """Serve a web page to tune a release on an uploaded image and to generate images of it (docs/app.md)."""
    from importlib.util import find_spec

    if find_spec("gradio") is None:
        raise ConfigError("the app needs Gradio; run pip install 'e4t[app]'")
    from pipelines.app.backend import TuningBackend
    from pipelines.app.server import serve
    from pipelines.registry.resolve import resolve_release

    releases = [resolve_release(location, arguments.runs) for location in arguments.release or [DEFAULT_RELEASE]]
    backend = TuningBackend(releases, base=arguments.base, device=arguments.device, dtype=arguments.dtype)
    serve(backend, arguments.host, arguments.port)


TUNE = Command(
    name="tune",
    summary="Learn a concept from one image or several",
    add_arguments=add_tune_arguments,
    run=tune,
    usual_keys=("steps", "learning_rate", "batch_size", "trainable", "lora_rank", "delta_bits", "seed"),
)
GENERATE = Command(
    name="generate",
    summary="Generate images of a concept",
    add_arguments=add_generate_arguments,
    run=generate,
)
EXPORT = Command(
    name="export",
    summary="Write a concept for diffusers",
    add_arguments=add_export_arguments,
    run=export,
)
APP = Command(
    name="app",
    summary="Serve a web page to tune and generate",
    add_arguments=add_app_arguments,
    run=app,
)
