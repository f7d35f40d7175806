"""Time pretraining steps and tuning on one device at the shapes of a base model, with their peak memory and MFU.

    python -m benchmarks.device                                        # SD1.5 and ViT-H/14 at 512 px, bf16, on a GPU
    python -m benchmarks.device --base models/base --resolution 64 --device cpu --batch-sizes 4 --steps 1  # quick check

Run it in the root of a checkout. Weights are random and nothing is downloaded. Every row is measured in its own
process. A pretraining step is forward, backward and AdamW on one device, without DeepSpeed and data loading; "cached"
leaves out the VAE and CLIP. FLOPs are those that `e4t plan` counts, and MFU is their fraction of the device's peak.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.harness import measure_in_subprocess, write_report
from benchmarks.shapes import CONDITIONING, PROMPT, add_shape_arguments, image_encoder_for
from data_prep.config import PrepareConfig
from encoder.backbone.shapes import DUMMY_TOKEN, build_meta_backbone
from encoder.config import BackboneConfig, TuneConfig
from encoder.model.conditioning import Conditioning
from encoder.model.domain_encoder import DomainEncoder, DomainEncoderConfig
from encoder.model.features import encode_images
from encoder.model.weight_offsets import offset_scope
from encoder.tuning.inputs import TuningImages
from encoder.tuning.tuner import Tuner
from pipelines.config.pretraining import PretrainConfig
from pipelines.config.recipe import Recipe
from pipelines.planning.pretraining import plan_pretraining
from pipelines.planning.tuning import plan_tuning
from pipelines.pretraining.model import DomainModel, sample_noise
from pipelines.runtime.device_specs import DEVICES, GIB, find_device
from pipelines.runtime.memory import host_peak_memory_bytes

PRETRAINING: dict[str, dict[str, Any]] = {
    "online": {},
    "cached": {"use_feature_cache": True},
    "cached, checkpointing": {"use_feature_cache": True, "gradient_checkpointing": True},
    "cached, compiled": {"use_feature_cache": True, "compile": True},
}
TUNING: dict[str, dict[str, Any]] = {
    "unet": {},
    "unet, checkpointing": {"gradient_checkpointing": True},
    "unet, checkpointing, micro-batch 4": {"gradient_checkpointing": True, "micro_batch_size": 4},
    "unet, checkpointing, 8-bit": {"gradient_checkpointing": True, "optimizer": "adamw8bit"},
    "attention, checkpointing": {"gradient_checkpointing": True, "trainable": "attention"},
    "lora, checkpointing": {"gradient_checkpointing": True, "trainable": "lora"},
    "lora, checkpointing, micro-batch 2": {"gradient_checkpointing": True, "trainable": "lora", "micro_batch_size": 2},
}
console = Console(width=140)


def build_recipe(
    arguments: argparse.Namespace, batch_size: int, pretraining: dict[str, Any], tuning: dict[str, Any]
) -> Recipe:
    """Build the recipe of one row."""
    pretrain_config = PretrainConfig(
        global_batch_size=batch_size,
        micro_batch_size=batch_size,
        gradient_checkpointing=False,
        hidden_width=arguments.hidden_width,
    )
    return Recipe(
        name="device",
        base=BackboneConfig(model=arguments.base, image_encoder=image_encoder_for(arguments.base), dtype="bfloat16"),
        data=PrepareConfig(source="none", output="none", domain=DUMMY_TOKEN, resolution=arguments.resolution),
        conditioning=CONDITIONING,
        pretrain=replace(pretrain_config, **pretraining),
        tune=replace(TuneConfig(batch_size=batch_size, micro_batch_size=batch_size), **tuning),
    )


def measure_pretraining(arguments: argparse.Namespace) -> dict[str, float]:
    """Return seconds per pretraining step and peak memory in bytes."""
    recipe = build_recipe(arguments, arguments.batch_size, PRETRAINING[arguments.setting], {})
    config, device = recipe.pretrain, torch.device(arguments.device)
    backbone = build_meta_backbone(recipe.base, device)
    conditioning = Conditioning.from_backbone(backbone, recipe.conditioning)
    with device:
        model = DomainModel.build(config, backbone, conditioning)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, fused=True)
    if config.gradient_checkpointing:
        backbone.unet.enable_gradient_checkpointing()
    if config.compile:
        backbone.unet.compile_repeated_blocks()
    pixels = torch.rand(config.global_batch_size, 3, arguments.resolution, arguments.resolution) * 2 - 1
    prompts = conditioning.tokenize([PROMPT] * config.global_batch_size)
    cached_images = encode_images(backbone, pixels) if config.use_feature_cache else None
    noise = sample_noise(recipe, backbone, list(range(config.global_batch_size)))

    def step() -> None:
        images = cached_images or encode_images(backbone, pixels)
        with offset_scope(backbone.unet):
            model(images, prompts, noise, config.regularization_weight).total.backward()
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(arguments.warmup_steps):
        step()
    seconds = time_on_device(device, lambda: [step() for _ in range(arguments.steps)]) / arguments.steps
    return {"seconds": seconds, "peak": peak_bytes(device)}


def measure_tuning(arguments: argparse.Namespace) -> dict[str, float]:
    """Return seconds of all tuning steps, encoding the image included, and peak memory in bytes."""
    recipe = build_recipe(arguments, arguments.batch_size, {}, TUNING[arguments.setting])
    device = torch.device(arguments.device)
    backbone = build_meta_backbone(recipe.base, device)
    conditioning = Conditioning.from_backbone(backbone, recipe.conditioning)
    encoder = DomainEncoder(DomainEncoderConfig.for_backbone(backbone, arguments.hidden_width))
    encoder.to(device).requires_grad_(False)
    images = TuningImages(pixels=torch.rand(1, 3, arguments.resolution, arguments.resolution, device=device) * 2 - 1)

    def run(steps: int) -> object:
        with Tuner(backbone, encoder, conditioning, images, replace(recipe.tune, steps=steps)) as tuner:
            return tuner.run("none", [steps])

    run(1)  # warm up
    return {"seconds": time_on_device(device, lambda: run(arguments.tuning_steps)), "peak": peak_bytes(device)}


def time_on_device(device: torch.device, function: Callable[[], object]) -> float:
    """Return the seconds until the device has finished ``function``."""
    synchronize(device)
    start = time.monotonic()
    function()
    synchronize(device)
    return time.monotonic() - start


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def peak_bytes(device: torch.device) -> float:
    """Return the peak memory of the GPU, or of this process on a CPU."""
    return float(torch.cuda.max_memory_reserved()) if device.type == "cuda" else float(host_peak_memory_bytes())


def measure(arguments: argparse.Namespace, stage: str, setting: str, batch_size: int) -> dict[str, Any]:
    """Measure a setting in its own process. If it fails, out of memory for example, the row holds the error."""
    options = ["--stage", stage, "--setting", setting, "--batch-size", str(batch_size)]
    for name in ("base", "hidden_width", "resolution", "device", "steps", "warmup_steps", "tuning_steps"):
        value = getattr(arguments, name)
        options += [f"--{name.replace('_', '-')}", str(value)] if value is not None else []
    row = {"stage": stage, "setting": setting, "batch_size": batch_size}
    try:
        measurements = measure_in_subprocess("benchmarks.device", *options)
    except RuntimeError as error:
        return row | {"error": str(error)[-80:]}
    return row | measurements | compare_with_plan(arguments, stage, setting, batch_size, measurements["seconds"])


def compare_with_plan(
    arguments: argparse.Namespace, stage: str, setting: str, batch_size: int, seconds: float
) -> dict[str, Any]:
    """Return the predicted memory, images per second and MFU."""
    name = torch.cuda.get_device_name() if arguments.device.startswith("cuda") else "cpu"
    device = find_device(name) or DEVICES[0]
    if stage == "pretraining":
        plan = plan_pretraining(build_recipe(arguments, batch_size, PRETRAINING[setting], {}), device, 1)
        num_images = batch_size
    else:
        plan = plan_tuning(build_recipe(arguments, batch_size, {}, TUNING[setting]), device)
        num_images = batch_size * arguments.tuning_steps
    images_per_second = num_images / seconds
    mfu = images_per_second * plan.flops_per_image / (device.teraflops * 1e12) if device.is_gpu else None
    return {"images_per_second": images_per_second, "mfu": mfu, "predicted": plan.total_bytes, "device": name}


def build_table(rows: list[dict[str, Any]]) -> Table:
    """Format the results as a table with one row per setting and batch size."""
    table = Table(title="on one device, random weights")
    for column in ("stage", "setting", "batch", "images/s", "seconds", "MFU", "GiB", "predicted"):
        table.add_column(column, justify="left" if column in ("stage", "setting") else "right")
    for row in rows:
        label = (row["stage"], row["setting"], str(row["batch_size"]))
        if "error" in row:
            table.add_row(*label, row["error"])
            continue
        table.add_row(
            *label,
            f"{row['images_per_second']:.2f}",
            f"{row['seconds']:.2f}",
            f"{row['mfu']:.0%}" if row["mfu"] else "-",
            f"{row['peak'] / GIB:.1f}",
            f"{row['predicted'] / GIB:.1f}",
        )
    return table


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_shape_arguments(parser, resolution=512)
    default_device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default_device, help="device, by default a GPU if there is one")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[8, 16, 32], help="batch sizes of pretraining")
    parser.add_argument("--warmup-steps", type=int, default=3, help="pretraining steps that are not timed")
    parser.add_argument("--steps", type=int, default=10, help="pretraining steps that are timed")
    parser.add_argument("--tuning-steps", type=int, default=15, help="tuning steps")
    parser.add_argument("--tuning-batch-size", type=int, default=16, help="batch size of tuning")
    all_settings = [*PRETRAINING, *TUNING]
    parser.add_argument("--settings", nargs="+", choices=all_settings, default=all_settings, metavar="SETTING",
                        help="settings to measure, by default all")  # fmt: skip
    parser.add_argument("--json", type=Path, help="write all measurements to this file")
    for name in ("--setting", "--stage"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--batch-size", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    """Measure one setting in this process, or several in their own."""
    arguments = parse_arguments()
    if arguments.setting:
        measure_stage = measure_pretraining if arguments.stage == "pretraining" else measure_tuning
        print(json.dumps(measure_stage(arguments)))
        return 0
    cases = [("pretraining", setting, size) for setting in PRETRAINING for size in arguments.batch_sizes]
    cases += [("tuning", setting, arguments.tuning_batch_size) for setting in TUNING]
    rows = []
    for case in cases:
        if case[1] in arguments.settings:
            rows.append(measure(arguments, *case))
            sys.stderr.write(f"{rows[-1]}\n")
    console.print(build_table(rows))
    if arguments.json:
        write_report(vars(arguments), {"rows": rows}, arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
