"""Times pre-training steps and tuning on one device, and how much of it they take, at a base's true shapes.

    python -m benchmarks.device                                        # SD1.5 and ViT-H/14 at 512 px, bf16, on a GPU
    python -m benchmarks.device --base models/base --side 64 --device cpu --batches 4 --steps 1    # a smoke run

From the root of a checkout, in its environment. Weights are random; nothing is downloaded. Each row is a process of
its own. A pre-training step is forward, backward and AdamW on one device, without DeepSpeed and without reading files;
"cached" leaves out the autoencoder and CLIP. Operations are those that `e4t plan` counts, MFU is their share of the
device's best.
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

from benchmarks.processes import figures_of
from benchmarks.report import deliver
from benchmarks.shapes import CONDITIONING, PROMPT, add_shapes, tower_of
from data_prep.config import PrepareConfig
from encoder.backbone.shapes import DUMMY_TOKEN, build_meta_backbone
from encoder.config import BackboneConfig, TuneConfig
from encoder.model.conditioning import Conditioning
from encoder.model.domain_encoder import DomainEncoder, DomainEncoderConfig
from encoder.model.features import encode_images
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
    "cached": {"cached": True},
    "cached, checkpointing": {"cached": True, "gradient_checkpointing": True},
    "cached, compiled": {"cached": True, "compile": True},
}
TUNING: dict[str, dict[str, Any]] = {
    "unet": {},
    "unet, checkpointing": {"gradient_checkpointing": True},
    "unet, checkpointing, 4 at once": {"gradient_checkpointing": True, "micro_batch_size": 4},
    "unet, checkpointing, 8-bit": {"gradient_checkpointing": True, "optimizer": "adamw8bit"},
    "attention, checkpointing": {"gradient_checkpointing": True, "train": "attention"},
    "lora, checkpointing": {"gradient_checkpointing": True, "train": "lora"},
    "lora, checkpointing, 2 at once": {"gradient_checkpointing": True, "train": "lora", "micro_batch_size": 2},
}
console = Console(width=140)


def recipe(arguments: argparse.Namespace, batch: int, pretraining: dict[str, Any], tuning: dict[str, Any]) -> Recipe:
    """One row's."""
    plain = PretrainConfig(
        global_batch_size=batch,
        micro_batch_size=batch,
        gradient_checkpointing=False,
        hidden_width=arguments.hidden_width,
    )
    return Recipe(
        name="device",
        base=BackboneConfig(model=arguments.base, image_encoder=tower_of(arguments.base), dtype="bfloat16"),
        data=PrepareConfig(source="none", output="none", domain=DUMMY_TOKEN, resolution=arguments.side),
        conditioning=CONDITIONING,
        pretrain=replace(plain, **pretraining),
        tune=replace(TuneConfig(batch_size=batch, micro_batch_size=batch), **tuning),
    )


def pretrain(arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds a step."""
    made = recipe(arguments, arguments.batch, PRETRAINING[arguments.one], {})
    config, device = made.pretrain, torch.device(arguments.device)
    backbone = build_meta_backbone(made.base, device)
    conditioning = Conditioning.from_backbone(backbone, made.conditioning)
    with device:
        model = DomainModel.build(config, backbone, conditioning)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, fused=True)
    if config.gradient_checkpointing:
        backbone.unet.enable_gradient_checkpointing()
    if config.compile:
        backbone.unet.compile_repeated_blocks()
    pixels = torch.rand(config.global_batch_size, 3, arguments.side, arguments.side) * 2 - 1
    prompts = conditioning.tokenize([PROMPT] * config.global_batch_size)
    kept = encode_images(backbone, pixels) if config.use_feature_cache else None
    draw = sample_noise(made, backbone, list(range(config.global_batch_size)))

    def step() -> None:
        pictures = kept or encode_images(backbone, pixels)
        model(pictures, prompts, draw, config.regularization_weight).total.backward()
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(arguments.warm_up):
        step()
    seconds = timed(device, lambda: [step() for _ in range(arguments.steps)]) / arguments.steps
    return {"seconds": seconds, "peak": peak(device)}


def tuned(arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds of 15 steps, looking at the picture included, after a step that warms up."""
    made = recipe(arguments, arguments.batch, {}, TUNING[arguments.one])
    device = torch.device(arguments.device)
    backbone = build_meta_backbone(made.base, device)
    conditioning = Conditioning.from_backbone(backbone, made.conditioning)
    encoder = DomainEncoder(DomainEncoderConfig.for_backbone(backbone, arguments.hidden_width))
    encoder.to(device).requires_grad_(False)
    pictures = TuningImages(pixels=torch.rand(1, 3, arguments.side, arguments.side, device=device) * 2 - 1)

    def run(steps: int) -> object:
        with Tuner(backbone, encoder, conditioning, pictures, replace(made.tune, steps=steps)) as tuner:
            return tuner.run("none", [steps])

    run(1)
    return {"seconds": timed(device, lambda: run(arguments.tuning_steps)), "peak": peak(device)}


def timed(device: torch.device, work: Callable[[], object]) -> float:
    """Seconds, until the device has done it."""
    settle(device)
    began = time.monotonic()
    work()
    settle(device)
    return time.monotonic() - began


def settle(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def peak(device: torch.device) -> float:
    """The most bytes of the device, or of this process, that were held."""
    return float(torch.cuda.max_memory_reserved()) if device.type == "cuda" else float(host_peak_memory_bytes())


def row(arguments: argparse.Namespace, stage: str, setting: str, batch: int) -> dict[str, Any]:
    """A setting in a process of its own; what went wrong, if it did (out of memory, say)."""
    words = ["--one", setting, "--stage", stage, "--batch", str(batch)]
    for name in ("base", "hidden_width", "side", "device", "steps", "warm_up", "tuning_steps"):
        value = getattr(arguments, name)
        words += [f"--{name.replace('_', '-')}", str(value)] if value is not None else []
    line = {"stage": stage, "setting": setting, "batch": batch}
    try:
        found = figures_of("benchmarks.device", *words)
    except RuntimeError as error:
        return line | {"error": str(error)[-80:]}
    return line | found | planned(arguments, stage, setting, batch, found["seconds"])


def planned(arguments: argparse.Namespace, stage: str, setting: str, batch: int, seconds: float) -> dict[str, Any]:
    """Prediction of memory, pictures a second and their share of the device's best."""
    name = torch.cuda.get_device_name() if arguments.device.startswith("cuda") else "cpu"
    device = find_device(name) or DEVICES[0]
    if stage == "pre-training":
        plan = plan_pretraining(recipe(arguments, batch, PRETRAINING[setting], {}), device, 1)
        pictures = batch
    else:
        plan = plan_tuning(recipe(arguments, batch, {}, TUNING[setting]), device)
        pictures = batch * arguments.tuning_steps
    speed = pictures / seconds
    share = speed * plan.flops_per_image / (device.teraflops * 1e12) if device.is_gpu else None
    return {"pictures_per_second": speed, "mfu": share, "predicted": plan.total_bytes, "device": name}


def table(rows: list[dict[str, Any]]) -> Table:
    """A row a setting."""
    shown = Table(title="on one device, weights random")
    for column in ("stage", "setting", "at once", "pictures/s", "seconds", "MFU", "GiB", "predicted"):
        shown.add_column(column, justify="left" if column in ("stage", "setting") else "right")
    for one in rows:
        start = (one["stage"], one["setting"], str(one["batch"]))
        if "error" in one:
            shown.add_row(*start, one["error"])
            continue
        shown.add_row(
            *start,
            f"{one['pictures_per_second']:.2f}",
            f"{one['seconds']:.2f}",
            f"{one['mfu']:.0%}" if one["mfu"] else "-",
            f"{one['peak'] / GIB:.1f}",
            f"{one['predicted'] / GIB:.1f}",
        )
    return shown


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_shapes(parser, side=512)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batches", nargs="+", type=int, default=[8, 16, 32], help="pictures a pre-training step")
    parser.add_argument("--warm-up", type=int, default=3, help="steps that are not timed")
    parser.add_argument("--steps", type=int, default=10, help="steps that are")
    parser.add_argument("--tuning-steps", type=int, default=15)
    parser.add_argument("--copies", type=int, default=16, help="of the picture a tuning step")
    everything = [*PRETRAINING, *TUNING]
    parser.add_argument("--settings", nargs="+", choices=everything, default=everything, metavar="SETTING")
    parser.add_argument("--json", type=Path, help="file for everything that was seen")
    for name in ("--one", "--stage"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    """Time one row here, or all."""
    arguments = parsed()
    if arguments.one:
        print(json.dumps(pretrain(arguments) if arguments.stage == "pre-training" else tuned(arguments)))
        return 0
    cases = [("pre-training", setting, batch) for setting in PRETRAINING for batch in arguments.batches]
    cases += [("tuning", setting, arguments.copies) for setting in TUNING]
    cases = [case for case in cases if case[1] in arguments.settings]
    rows = []
    for case in cases:
        rows.append(row(arguments, *case))
        sys.stderr.write(f"{rows[-1]}\n")
    console.print(table(rows))
    if arguments.json:
        deliver(vars(arguments), {"rows": rows}, arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
