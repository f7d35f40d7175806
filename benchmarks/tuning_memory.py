"""Measure the peak memory of tuning in each of its settings, beside the prediction of `e4t plan`.

    python -m benchmarks.tuning_memory                                       # SD1.5 and ViT-H/14, random weights
    python -m benchmarks.tuning_memory --base models/base --settings "lora, bf16"    # a quick check

Run it in the root of a checkout; the shapes of SD1.5 need 24 GiB. Every setting tunes for two steps in its own process
and reports its peak memory (VmHWM). The setting ``plain`` is a usual training loop with AdamW on the whole UNet in
float32: all gradients exist at once, and the original weights are not kept.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.harness import measure_in_subprocess, write_report
from benchmarks.shapes import CONDITIONING, PROMPT, add_shape_arguments, image_encoder_for
from data_prep.config import PrepareConfig
from encoder.backbone.backbone import Backbone
from encoder.backbone.shapes import DUMMY_TOKEN, build_meta_backbone
from encoder.config import BackboneConfig, TuneConfig
from encoder.model.conditioning import Conditioning
from encoder.model.domain_encoder import DomainEncoder, DomainEncoderConfig
from encoder.model.features import encode_images
from encoder.model.losses import e4t_loss
from encoder.tuning.inputs import TuningImages
from encoder.tuning.tuner import Tuner
from pipelines.config.pretraining import PretrainConfig
from pipelines.config.recipe import Recipe
from pipelines.planning.tuning import plan_tuning
from pipelines.pretraining.model import sample_noise
from pipelines.runtime.device_specs import GIB, find_device
from pipelines.runtime.memory import host_peak_memory_bytes

SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("float32", {}),
    "unet": ("float32", {}),
    "unet, bf16": ("bfloat16", {}),
    "unet, bf16, 4 micro-batches": ("bfloat16", {"micro_batch_size": 1}),
    "unet, bf16, 8-bit moments": ("bfloat16", {"optimizer": "adamw8bit"}),
    "attention, bf16": ("bfloat16", {"trainable": "attention"}),
    "lora, bf16": ("bfloat16", {"trainable": "lora"}),
    "lora, bf16, checkpointing": ("bfloat16", {"trainable": "lora", "gradient_checkpointing": True}),
}
console = Console(width=120)


def build_recipe(setting: str, arguments: argparse.Namespace) -> Recipe:
    """Build the recipe of a setting, with a batch of four samples."""
    dtype, tuning = SETTINGS[setting]
    image_encoder = image_encoder_for(arguments.base)
    return Recipe(
        name="memory",
        base=BackboneConfig(model=arguments.base, image_encoder=image_encoder, dtype=dtype),  # type: ignore[arg-type]
        data=PrepareConfig(source="none", output="none", domain=DUMMY_TOKEN, resolution=arguments.resolution),
        conditioning=CONDITIONING,
        pretrain=PretrainConfig(hidden_width=arguments.hidden_width),
        tune=TuneConfig(steps=2, **{"batch_size": 4, "micro_batch_size": 4, **tuning}),
    )


def measure(setting: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Build the model and tune it in this process. Return bytes of memory and seconds."""
    recipe = build_recipe(setting, arguments)
    backbone = build_meta_backbone(recipe.base, "cpu")
    conditioning = Conditioning.from_backbone(backbone, recipe.conditioning)
    encoder = DomainEncoder(DomainEncoderConfig.for_backbone(backbone, arguments.hidden_width)).requires_grad_(False)
    pixels = torch.rand(1, 3, arguments.resolution, arguments.resolution)
    built, start = host_peak_memory_bytes(), time.monotonic()
    if setting == "plain":
        tune_plainly(recipe, backbone, encoder, conditioning, pixels)
    else:
        with Tuner(backbone, encoder, conditioning, TuningImages(pixels=pixels), recipe.tune) as tuner:
            tuner.run("none", [recipe.tune.steps])
    return {"built": built, "peak": host_peak_memory_bytes(), "seconds": time.monotonic() - start}


def tune_plainly(
    recipe: Recipe, backbone: Backbone, encoder: DomainEncoder, conditioning: Conditioning, pixels: torch.Tensor
) -> None:
    """Run the same steps as a usual training loop with AdamW."""
    parameters = [*backbone.unet.parameters(), *encoder.parameters()]
    optimizer = torch.optim.AdamW([each.requires_grad_(True) for each in parameters], lr=recipe.tune.learning_rate)
    images, batch_size = encode_images(backbone, pixels), recipe.tune.batch_size
    for step in range(recipe.tune.steps):
        sample = sample_noise(recipe, backbone, [step * batch_size + index for index in range(batch_size)])
        losses = e4t_loss(
            backbone,
            encoder,
            conditioning,
            class_tokens=images.class_tokens.expand(batch_size, -1, -1),
            prompts=conditioning.tokenize([PROMPT] * batch_size),
            regularization_weight=recipe.tune.regularization_weight,
            **sample.loss_inputs(images.posterior),
        )
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()


def predict(setting: str, arguments: argparse.Namespace) -> float | None:
    """Return the prediction of `e4t plan` in bytes; None for the plain loop, which e4t does not have."""
    cpu = find_device("cpu")
    assert cpu  # noqa: S101 - DEVICES always holds it
    return None if setting == "plain" else float(plan_tuning(build_recipe(setting, arguments), cpu).total_bytes)


def measure_separately(setting: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure a setting in its own process."""
    options = ["--one", setting, "--base", arguments.base, "--resolution", str(arguments.resolution)]
    options += ["--hidden-width", str(arguments.hidden_width)] if arguments.hidden_width else []
    return {"setting": setting, **measure_in_subprocess("benchmarks.tuning_memory", *options)}


def build_table(rows: list[dict[str, Any]]) -> Table:
    """Format the results as a table with one row per setting."""
    table = Table(title="peak memory of tuning, batch of 4 samples")
    for column in ("setting", "GiB", "relative to plain", "predicted", "error", "seconds"):
        table.add_column(column, justify="left" if column == "setting" else "right")
    for row in rows:
        predicted = row["predicted"]
        table.add_row(
            row["setting"],
            f"{row['peak'] / GIB:.2f}",
            f"{row['peak'] / rows[0]['peak']:.2f}" if rows[0]["setting"] == "plain" else "-",
            f"{predicted / GIB:.2f}" if predicted else "-",
            f"{predicted / row['peak'] - 1:+.1%}" if predicted else "-",
            f"{row['seconds']:.0f}",
        )
    return table


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_shape_arguments(parser, resolution=128)
    parser.add_argument(
        "--settings",
        nargs="+",
        choices=SETTINGS,
        default=list(SETTINGS),
        metavar="SETTING",
        help="settings to measure, by default all",
    )
    parser.add_argument("--one", choices=SETTINGS, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="write all measurements to this file")
    return parser.parse_args()


def main() -> int:
    """Measure one setting in this process, or several in their own."""
    arguments = parse_arguments()
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments)))
        return 0
    predicted = {setting: predict(setting, arguments) for setting in arguments.settings}
    rows = []
    for setting in arguments.settings:
        rows.append(measure_separately(setting, arguments) | {"predicted": predicted[setting]})
        sys.stderr.write(f"{setting}: {rows[-1]['peak'] / GIB:.2f} GiB\n")
    console.print(build_table(rows))
    if arguments.json:
        write_report(vars(arguments), {"rows": rows}, arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
