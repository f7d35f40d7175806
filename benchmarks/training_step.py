"""Compare a pretraining step with a naive implementation of the same loss, in time and peak memory.

    python -m benchmarks.training_step                                               # SD1.5 and ViT-H/14
    python -m benchmarks.training_step --base models/base --resolution 64 --rounds 1  # a quick check

Run it in the root of a checkout; the shapes of SD1.5 need 24 GiB. Weights are random. The naive implementation builds
dense offsets, for each of both passes; runs the whole UNet with gradients in the feature pass; leaves gradients of the
base model's parameters on; and encodes images and the empty prompt in every step. A step is forward and backward. Each
runs in its own process, whose peak memory is VmHWM.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.harness import format_ratio, measure_in_subprocess, summarize_ratios, write_report
from benchmarks.offsets import nan_max
from benchmarks.shapes import CONDITIONING, PROMPT, add_shape_arguments, image_encoder_for
from encoder.backbone.backbone import Backbone
from encoder.backbone.shapes import build_meta_backbone
from encoder.backbone.text_encoders import TokenizedPrompts
from encoder.backbone.unet_halves import unet_decoder_forward, unet_encoder_forward
from encoder.config import BackboneConfig
from encoder.model.conditioning import Conditioning
from encoder.model.features import EncodedImages, encode_images
from encoder.model.losses import NoiseSample, denoising_loss, diffusion_target, embedding_regularization
from encoder.model.weight_offsets import OffsetPredictor, OverparametrizedOffset, attention_projections, offset_scope
from pipelines.config.pretraining import PretrainConfig
from pipelines.pretraining.model import DomainModel
from pipelines.runtime.device_specs import GIB
from pipelines.runtime.memory import host_peak_memory_bytes, reset_peak_memory

TOLERANCE = 1e-4
REGULARIZATION_WEIGHT = 0.01
console = Console(width=120)


class Case:
    """A model and a batch, the same for both implementations."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        torch.manual_seed(0)
        self.backbone = build_meta_backbone(
            BackboneConfig(model=arguments.base, image_encoder=image_encoder_for(arguments.base)), "cpu"
        )
        self.conditioning = Conditioning.from_backbone(self.backbone, CONDITIONING)
        config = PretrainConfig(hidden_width=arguments.hidden_width)
        self.model = DomainModel.build(config, self.backbone, self.conditioning)
        nn.init.normal_(self.model.encoder.out_proj.weight, std=0.02)
        for offset in self.model.offsets.offsets:
            nn.init.normal_(offset.rows.weight, std=0.001)
            nn.init.normal_(offset.rows.bias, std=0.02)
        self.pixels = torch.rand(arguments.batch_size, 3, arguments.resolution, arguments.resolution) * 2 - 1
        self.prompts = self.conditioning.tokenize([PROMPT] * arguments.batch_size)
        shape = self.backbone.latent_shape(arguments.resolution)
        self.noise = NoiseSample.from_seeds(range(arguments.batch_size), shape, 1000)

    def encode(self) -> EncodedImages:
        """Encode the images, as a feature cache does."""
        return encode_images(self.backbone, self.pixels)


def optimized_step(case: Case) -> tuple[float, float]:
    """Return loss and seconds of a step from cached features. What is computed once per run is not timed."""
    images = case.encode()
    case.conditioning.unconditional_embeddings()
    case.backbone.move_encoders("meta")  # `e4t pretrain` moves them to the CPU if it reads cached features
    reset_peak_memory()
    start = time.perf_counter()
    with offset_scope(case.backbone.unet):
        losses = case.model(images, case.prompts, case.noise, REGULARIZATION_WEIGHT)
        losses.total.backward()
    return float(losses.total.detach()), time.perf_counter() - start


def naive_step(case: Case) -> tuple[float, float]:
    """Return loss and seconds of a step of the naive implementation."""
    case.backbone.unet.requires_grad_(True)
    reset_peak_memory()
    start = time.perf_counter()
    loss = naive_loss(case.backbone, case.model, case.conditioning, case.pixels, case.prompts, case.noise)
    loss.backward()
    return float(loss.detach()), time.perf_counter() - start


def naive_loss(
    backbone: Backbone,
    model: DomainModel,
    conditioning: Conditioning,
    pixels: Tensor,
    prompts: TokenizedPrompts,
    sample: NoiseSample,
) -> Tensor:
    """Compute the loss of the method without any of the optimizations."""
    images, scheduler = encode_images(backbone, pixels), backbone.noise_scheduler
    latents = images.posterior.mean + images.posterior.std * sample.posterior_noise
    noisy_latents = scheduler.add_noise(latents, sample.noise, sample.timesteps)
    unconditional = conditioning.encode_prompts(conditioning.tokenize([""] * len(pixels)))
    set_dense_offsets(backbone.unet, model.offsets)
    encoder_output = unet_encoder_forward(backbone, noisy_latents, sample.timesteps, unconditional)
    unet_decoder_forward(backbone, encoder_output)
    v = model.encoder(images.class_tokens, encoder_output.pooled_features)
    set_dense_offsets(backbone.unet, model.offsets)
    prompt_embeddings = conditioning.encode_prompts(prompts, conditioning.placeholder_embeddings(v))
    prediction = backbone.unet_forward(noisy_latents, sample.timesteps, prompt_embeddings)
    target = diffusion_target(scheduler, latents, sample.noise, sample.timesteps)
    return denoising_loss(prediction, target) + embedding_regularization(v, REGULARIZATION_WEIGHT)


def set_dense_offsets(unet: nn.Module, offsets: OffsetPredictor) -> None:
    """Let the projections compute with W * (1 + Delta), Delta by its dense definition."""
    for linear, offset in zip(attention_projections(unet).values(), offsets.offsets, strict=True):
        assert isinstance(offset, OverparametrizedOffset)  # noqa: S101 - the only form with a dense definition
        weight = linear.weight * (1 + offset.dense())
        linear.forward = MethodType(  # type: ignore[method-assign]
            lambda self, features, weight=weight: F.linear(features, weight, self.bias), linear
        )


STEPS = {"optimized": optimized_step, "naive": naive_step}


def measure(implementation: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure one implementation in its own process."""
    options = ["--implementation", implementation, "--base", arguments.base]
    options += ["--resolution", str(arguments.resolution), "--batch-size", str(arguments.batch_size)]
    options += ["--hidden-width", str(arguments.hidden_width)] if arguments.hidden_width else []
    return measure_in_subprocess("benchmarks.training_step", *options)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_shape_arguments(parser, resolution=256)
    parser.add_argument("--batch-size", type=int, default=2, help="images in the batch")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each implementation")
    parser.add_argument("--implementation", choices=list(STEPS), help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="write all measurements to this file")
    return parser.parse_args()


def main() -> int:
    """Measure one implementation in this process, or both in turn in their own."""
    arguments = parse_arguments()
    if arguments.implementation:
        loss, seconds = STEPS[arguments.implementation](Case(arguments))
        print(json.dumps({"loss": loss, "seconds": seconds, "peak": host_peak_memory_bytes()}))
        return 0
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in STEPS}
    for number in range(arguments.rounds):
        for name in list(rows)[:: 1 if number % 2 else -1]:
            rows[name].append(measure(name, arguments))
    pairs = zip(rows["optimized"], rows["naive"], strict=True)
    difference = nan_max([abs(one["loss"] / other["loss"] - 1) for one, other in pairs])
    if not difference <= TOLERANCE:
        raise RuntimeError(f"the losses of both implementations differ by {difference:.1e}")
    report(arguments, rows, difference)
    return 0


def report(arguments: argparse.Namespace, rows: dict[str, list[dict[str, Any]]], difference: float) -> None:
    """Print the ratios of time and memory."""
    seconds = {name: [row["seconds"] for row in each] for name, each in rows.items()}
    peaks = {name: [row["peak"] for row in each] for name, each in rows.items()}
    speedup = summarize_ratios(seconds["naive"], seconds["optimized"])
    memory = summarize_ratios(peaks["optimized"], peaks["naive"])
    fastest = {name: min(values) for name, values in seconds.items()}
    highest = {name: max(values) / GIB for name, values in peaks.items()}
    console.print(
        f"a step is {format_ratio(speedup)} times as fast as the naive one: "
        f"{fastest['optimized']:.1f} s, {fastest['naive']:.1f} s"
    )
    console.print(
        f"it takes {format_ratio(memory)} of the memory: {highest['optimized']:.1f} GiB, {highest['naive']:.1f} GiB"
    )
    console.print(f"the losses agree to {difference:.1e}")
    if arguments.json:
        write_report(vars(arguments), {"rows": rows, "speedup": speedup, "memory": memory}, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
