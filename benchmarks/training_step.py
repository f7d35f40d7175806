"""Times a pre-training step against the naive form of the same mathematics, and measures what both hold.

    python -m benchmarks.training_step                                              # SD1.5 and ViT-H/14
    python -m benchmarks.training_step --base models/base --side 64 --rounds 1      # a smoke run

From the root of a checkout, in its environment; the shapes of SD1.5 need 24 GiB. Weights are random. The naive form is
what one writes first: offsets as dense matrices, evaluated for each of both passes; the whole UNet in the feature pass,
with its gradient; a base whose parameters require gradients that nobody uses; pictures and the null prompt looked at in
every step. Each step is forward and backward, in a process of its own, whose most memory is VmHWM.
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

from benchmarks.offsets import largest
from benchmarks.processes import figures_of
from benchmarks.report import deliver
from benchmarks.rounds import ratio, told
from benchmarks.shapes import CONDITIONING, PROMPT, add_shapes, tower_of
from encoder.backbone.backbone import Backbone
from encoder.backbone.shapes import build_meta_backbone
from encoder.backbone.text_encoders import TokenizedPrompts
from encoder.backbone.unet_halves import unet_decoder_forward, unet_encoder_forward
from encoder.config import BackboneConfig
from encoder.model.conditioning import Conditioning
from encoder.model.features import EncodedImages, encode_images
from encoder.model.losses import NoiseSample, denoising_loss, diffusion_target, embedding_regularization
from encoder.model.weight_offsets import OffsetPredictor, OverparametrizedOffset, attention_projections
from pipelines.config.pretraining import PretrainConfig
from pipelines.pretraining.model import DomainModel
from pipelines.runtime.device_specs import GIB
from pipelines.runtime.memory import host_peak_memory_bytes, reset_peak_memory

TOLERANCE = 1e-4
REGULARISER = 0.01
console = Console(width=120)


class Case:
    """A model and a batch, the same for both forms."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        torch.manual_seed(0)
        self.backbone = build_meta_backbone(
            BackboneConfig(model=arguments.base, image_encoder=tower_of(arguments.base)), "cpu"
        )
        self.conditioning = Conditioning.from_backbone(self.backbone, CONDITIONING)
        config = PretrainConfig(hidden_width=arguments.hidden_width)
        self.model = DomainModel.build(config, self.backbone, self.conditioning)
        nn.init.normal_(self.model.encoder.out_proj.weight, std=0.02)
        for matrix in self.model.offsets.offsets:
            nn.init.normal_(matrix.rows.weight, std=0.001)
            nn.init.normal_(matrix.rows.bias, std=0.02)
        self.pixels = torch.rand(arguments.batch, 3, arguments.side, arguments.side) * 2 - 1
        self.prompts = self.conditioning.tokenize([PROMPT] * arguments.batch)
        shape = self.backbone.latent_shape(arguments.side)
        self.draw = NoiseSample.from_seeds(range(arguments.batch), shape, 1000)

    def pictures(self) -> EncodedImages:
        """As a cache keeps them."""
        return encode_images(self.backbone, self.pixels)


def ours(case: Case) -> tuple[float, float]:
    """Loss and seconds of a step on cached pictures; what is made once is not in the seconds."""
    pictures = case.pictures()
    case.conditioning.unconditional_embeddings()
    case.backbone.move_encoders("meta")  # `e4t pretrain` keeps them in the host's memory, not on the device
    reset_peak_memory()
    began = time.perf_counter()
    losses = case.model(pictures, case.prompts, case.draw, REGULARISER)
    losses.total.backward()
    return float(losses.total.detach()), time.perf_counter() - began


def naive(case: Case) -> tuple[float, float]:
    """The same of the naive form."""
    case.backbone.unet.requires_grad_(True)
    reset_peak_memory()
    began = time.perf_counter()
    loss = naive_loss(case.backbone, case.model, case.conditioning, case.pixels, case.prompts, case.draw)
    loss.backward()
    return float(loss.detach()), time.perf_counter() - began


def naive_loss(
    backbone: Backbone,
    model: DomainModel,
    conditioning: Conditioning,
    pixels: Tensor,
    prompts: TokenizedPrompts,
    draw: NoiseSample,
) -> Tensor:
    """As one writes it first."""
    pictures, schedule = encode_images(backbone, pixels), backbone.noise_scheduler
    latents = pictures.posterior.mean + pictures.posterior.std * draw.posterior_noise
    noisy = schedule.add_noise(latents, draw.noise, draw.timesteps)
    null = conditioning.encode_prompts(conditioning.tokenize([""] * len(pixels)))
    set_dense_offsets(backbone.unet, model.offsets)
    half = unet_encoder_forward(backbone, noisy, draw.timesteps, null)
    unet_decoder_forward(backbone, half)
    v = model.encoder(pictures.class_tokens, half.pooled_features)
    set_dense_offsets(backbone.unet, model.offsets)
    prediction = backbone.unet_forward(
        noisy, draw.timesteps, conditioning.encode_prompts(prompts, conditioning.placeholder_embeddings(v))
    )
    wanted = diffusion_target(schedule, latents, draw.noise, draw.timesteps)
    return denoising_loss(prediction, wanted) + embedding_regularization(v, REGULARISER)


def set_dense_offsets(unet: nn.Module, offsets: OffsetPredictor) -> None:
    """W (1 + Delta), Delta by the definition."""
    for linear, matrix in zip(attention_projections(unet).values(), offsets.offsets, strict=True):
        assert isinstance(matrix, OverparametrizedOffset)  # noqa: S101 - the form that the definition is of
        weight = linear.weight * (1 + matrix.dense())
        linear.forward = MethodType(  # type: ignore[method-assign]
            lambda self, features, weight=weight: F.linear(features, weight, self.bias), linear
        )


def step(form: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One form in a process of its own."""
    words = ["--form", form, "--base", arguments.base, "--side", str(arguments.side), "--batch", str(arguments.batch)]
    words += ["--hidden-width", str(arguments.hidden_width)] if arguments.hidden_width else []
    return figures_of("benchmarks.training_step", *words)


def main() -> int:
    """One form here, or both in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_shapes(parser, side=256)
    parser.add_argument("--batch", type=int, default=2, help="pictures at once")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--form", choices=["ours", "naive"], help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="file for everything that was seen")
    arguments = parser.parse_args()
    if arguments.form:
        loss, seconds = {"ours": ours, "naive": naive}[arguments.form](Case(arguments))
        print(json.dumps({"loss": loss, "seconds": seconds, "peak": host_peak_memory_bytes()}))
        return 0
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "naive": []}
    for number in range(arguments.rounds):
        for form in list(found)[:: 1 if number % 2 else -1]:
            found[form].append(step(form, arguments))
    pairs = zip(found["ours"], found["naive"], strict=True)
    apart = largest([abs(one["loss"] / other["loss"] - 1) for one, other in pairs])
    if not apart <= TOLERANCE:
        raise RuntimeError(f"the losses differ by {apart:.1e}")
    columns = {form: {key: [one[key] for one in rows] for key in ("seconds", "peak")} for form, rows in found.items()}
    faster = ratio(columns["naive"]["seconds"], columns["ours"]["seconds"])
    smaller = ratio(columns["ours"]["peak"], columns["naive"]["peak"])
    least = {form: min(values["seconds"]) for form, values in columns.items()}
    held = {form: max(values["peak"]) / GIB for form, values in columns.items()}
    console.print(
        f"a step is {told(faster)} times as fast as the naive one: {least['ours']:.1f} s, {least['naive']:.1f} s"
    )
    console.print(f"it holds {told(smaller)} of its memory: {held['ours']:.1f} GiB, {held['naive']:.1f} GiB")
    console.print(f"the losses agree to {apart:.1e}")
    if arguments.json:
        deliver(vars(arguments), {"rows": found, "faster": faster, "smaller": smaller}, arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
