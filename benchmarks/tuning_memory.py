"""Measures the memory that tuning takes in each of its settings, beside `e4t plan`'s prediction.

    python -m benchmarks.tuning_memory                                       # SD1.5 and ViT-H/14, random weights
    python -m benchmarks.tuning_memory --base models/base --settings lora    # a smoke run

From the root of a checkout, in its environment; the shapes of SD1.5 need 24 GiB. Each setting is a process of its own,
which tunes for two steps and tells the most that it ever held (VmHWM). ``plain`` is AdamW as everybody writes it, on
the whole UNet in fp32: all gradients stand at once, and nothing is kept to go back to.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.processes import figures_of
from benchmarks.report import deliver
from benchmarks.shapes import CONDITIONING, PROMPT, add_shapes, tower_of
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
    "attention, bf16": ("bfloat16", {"train": "attention"}),
    "lora, bf16": ("bfloat16", {"train": "lora"}),
    "lora, bf16, checkpointing": ("bfloat16", {"train": "lora", "gradient_checkpointing": True}),
}
console = Console(width=120)


def recipe(setting: str, arguments: argparse.Namespace) -> Recipe:
    """Of a setting: four copies a step."""
    dtype, tuning = SETTINGS[setting]
    return Recipe(
        name="memory",
        base=BackboneConfig(model=arguments.base, image_encoder=tower_of(arguments.base), dtype=dtype),  # type: ignore[arg-type]
        data=PrepareConfig(source="none", output="none", domain=DUMMY_TOKEN, resolution=arguments.side),
        conditioning=CONDITIONING,
        pretrain=PretrainConfig(hidden_width=arguments.hidden_width),
        tune=TuneConfig(steps=2, batch_size=4, micro_batch_size=4) if setting == "plain" else replace(
            TuneConfig(steps=2, batch_size=4, micro_batch_size=4), **tuning
        ),
    )  # fmt: skip


def measure(setting: str, arguments: argparse.Namespace) -> dict[str, float]:
    """In this process: build, tune, tell."""
    made = recipe(setting, arguments)
    backbone = build_meta_backbone(made.base, "cpu")
    conditioning = Conditioning.from_backbone(backbone, made.conditioning)
    encoder = DomainEncoder(DomainEncoderConfig.for_backbone(backbone, arguments.hidden_width)).requires_grad_(False)
    pixels, built, began = torch.rand(1, 3, arguments.side, arguments.side), host_peak_memory_bytes(), time.monotonic()
    if setting == "plain":
        plain(made, backbone, encoder, conditioning, pixels)
    else:
        with Tuner(backbone, encoder, conditioning, TuningImages(pixels=pixels), made.tune) as tuner:
            tuner.run("none", [made.tune.steps])
    return {"built": built, "peak": host_peak_memory_bytes(), "seconds": time.monotonic() - began}


def plain(
    made: Recipe, backbone: Backbone, encoder: DomainEncoder, conditioning: Conditioning, pixels: torch.Tensor
) -> None:
    """The same steps, as everybody writes them."""
    trained = [*backbone.unet.parameters(), *encoder.parameters()]
    optimizer = torch.optim.AdamW([p.requires_grad_(True) for p in trained], lr=made.tune.learning_rate)
    encoded, size = encode_images(backbone, pixels), made.tune.batch_size
    for step in range(made.tune.steps):
        draw = sample_noise(made, backbone, [step * size + copy for copy in range(size)])
        losses = e4t_loss(
            backbone,
            encoder,
            conditioning,
            latents=(encoded.posterior.mean + encoded.posterior.std * draw.posterior_noise),
            class_tokens=encoded.class_tokens.expand(size, -1, -1),
            prompts=conditioning.tokenize([PROMPT] * size),
            noise=draw.noise,
            timesteps=draw.timesteps,
            regularization_weight=made.tune.regularization_weight,
        )
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()


def predict(setting: str, arguments: argparse.Namespace) -> float | None:
    """What the plan says; nothing of the plain form, which e4t does not have."""
    cpu = find_device("cpu")
    assert cpu  # noqa: S101 - it is in the table
    return None if setting == "plain" else float(plan_tuning(recipe(setting, arguments), cpu).total_bytes)


def run(setting: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """A setting in a process of its own."""
    words = ["--one", setting, "--base", arguments.base, "--side", str(arguments.side)]
    words += ["--hidden-width", str(arguments.hidden_width)] if arguments.hidden_width else []
    return {"setting": setting, **figures_of("benchmarks.tuning_memory", *words)}


def table(rows: list[dict[str, Any]]) -> Table:
    """A row a setting."""
    shown = Table(title="the most memory that tuning held, 4 copies a step")
    for column in ("setting", "GiB", "of plain", "predicted", "error", "seconds"):
        shown.add_column(column, justify="left" if column == "setting" else "right")
    for row in rows:
        predicted = row["predicted"]
        shown.add_row(
            row["setting"],
            f"{row['peak'] / GIB:.2f}",
            f"{row['peak'] / rows[0]['peak']:.2f}" if rows[0]["setting"] == "plain" else "-",
            f"{predicted / GIB:.2f}" if predicted else "-",
            f"{predicted / row['peak'] - 1:+.1%}" if predicted else "-",
            f"{row['seconds']:.0f}",
        )
    return shown


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_shapes(parser, side=128)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), metavar="SETTING")
    parser.add_argument("--one", choices=SETTINGS, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="file for everything that was seen")
    return parser.parse_args()


def main() -> int:
    """Measure one setting here, or all."""
    arguments = parsed()
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments)))
        return 0
    predicted = {setting: predict(setting, arguments) for setting in arguments.settings}
    rows = []
    for setting in arguments.settings:
        rows.append(run(setting, arguments) | {"predicted": predicted[setting]})
        sys.stderr.write(f"{setting}: {rows[-1]['peak'] / GIB:.2f} GiB\n")
    console.print(table(rows))
    if arguments.json:
        deliver(vars(arguments), {"rows": rows}, arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
