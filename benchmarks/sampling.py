"""Time sampling with a loaded concept against the plain pipeline of diffusers on the same UNet.

    python -m benchmarks.sampling                                   # the shipped release
    python -m benchmarks.sampling --base stable-diffusion-v1-5/stable-diffusion-v1-5 --resolution 128 --steps 3

Run it in the root of a checkout. Both sample the same number of latents with as many DDIM steps and
guidance. With a concept, every step also runs the domain encoder and the text encoder, because the concept's token
depends on the noisy latents.
"""

import argparse
import sys
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from rich.console import Console
from torch import Tensor

from benchmarks.harness import format_ratio, summarize_ratios, time_interleaved, write_report
from benchmarks.shapes import CONDITIONING, VIT_H
from encoder.backbone.shapes import build_meta_backbone
from encoder.concepts.concept import Concept
from encoder.concepts.concept_tokens import EncodedToken
from encoder.config import PLACEHOLDER, BackboneConfig, SampleConfig
from encoder.model.conditioning import Conditioning
from encoder.model.domain_encoder import DomainEncoder, DomainEncoderConfig
from encoder.model.sampling import seeded_generators
from encoder.pipeline import E4TPipeline

TOLERANCE = 0.01
console = Console(width=120)


def load_pipeline(arguments: argparse.Namespace) -> E4TPipeline:
    """Load a pipeline with a random concept."""
    if arguments.base is None:
        pipe = E4TPipeline.from_pretrained(arguments.release)
    else:
        backbone = build_meta_backbone(BackboneConfig(model=arguments.base, image_encoder=VIT_H), "cpu")
        encoder = DomainEncoder(DomainEncoderConfig.for_backbone(backbone)).requires_grad_(False)
        conditioning = Conditioning.from_backbone(backbone, CONDITIONING)
        pipe = E4TPipeline(backbone, encoder, conditioning, release="random", resolution=arguments.resolution)
    shape = pipe.domain_encoder.config
    tokens = torch.randn(1, shape.class_tokens, shape.clip_width)
    pipe.load_concept(Concept(weight_deltas={}, token=EncodedToken(tokens), release=pipe.release))
    return pipe


def diffusers_pipeline(pipe: E4TPipeline) -> StableDiffusionPipeline:
    """Build the pipeline of diffusers from the same modules."""
    backbone = pipe.backbone
    reference = StableDiffusionPipeline(
        vae=backbone.vae,
        text_encoder=backbone.text_encoders.encoders[0],
        tokenizer=backbone.text_encoders.tokenizers[0],
        unet=backbone.unet,
        scheduler=backbone.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    reference.set_progress_bar_config(disable=True)
    return reference


def main() -> int:
    """Check that both agree, then time them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--release", default="models/faces", help="folder or hub id of a release")
    parser.add_argument(
        "--base", default=None, help="hub id of a published base model with random weights, in place of a release"
    )
    parser.add_argument("--resolution", type=int, default=128, help="side of the images in pixels; only with --base")
    parser.add_argument("--num-images", type=int, default=4, help="images in a batch")
    parser.add_argument("--steps", type=int, default=25, help="DDIM steps")
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each candidate")
    parser.add_argument("--json", type=Path, help="write all measurements to this file")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    pipe = load_pipeline(arguments)
    reference, config = diffusers_pipeline(pipe), SampleConfig(num_inference_steps=arguments.steps, guidance_scale=4.0)
    domain_word = pipe.conditioning.config.domain_word

    def sample(prompt: str) -> Tensor:
        return pipe.sample([prompt] * arguments.num_images, config, seeded_generators(1, arguments.num_images))

    def diffuse() -> Tensor:
        latents: Tensor = reference(
            [domain_word] * arguments.num_images,
            num_inference_steps=config.num_inference_steps,
            guidance_scale=config.guidance_scale,
            height=pipe.resolution,
            width=pipe.resolution,
            output_type="latent",
            generator=seeded_generators(1, arguments.num_images),
        ).images
        return latents

    candidates = {
        "concept": lambda: sample(PLACEHOLDER),
        "domain_word": lambda: sample(domain_word),
        "diffusers": diffuse,
    }
    difference = float((sample(domain_word) - diffuse()).abs().max())  # also warms up what is computed only once
    if not difference < TOLERANCE:
        raise RuntimeError(f"both pipelines got the same prompt, but their latents differ by {difference:.1e}")
    seconds = time_interleaved(candidates, arguments.rounds)
    ratios = {name: summarize_ratios(seconds[name], seconds["diffusers"]) for name in ("concept", "domain_word")}
    console.print(f"time relative to diffusers, with a concept:     {format_ratio(ratios['concept'])}")
    console.print(f"time relative to diffusers, without a concept:  {format_ratio(ratios['domain_word'])}")
    if arguments.json:
        write_report(vars(arguments), {"seconds": seconds, "ratios": ratios}, arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
