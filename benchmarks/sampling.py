"""Times sampling with a loaded concept against diffusers' plain pipeline on the same UNet.

    python -m benchmarks.sampling                                   # the shipped release
    python -m benchmarks.sampling --shapes stable-diffusion-v1-5/stable-diffusion-v1-5 --side 128 --steps 3 --rounds 3

From the root of a checkout, in its environment. Both make the same number of latents in as many DDIM steps with
guidance; ours also looks at the UNet's maps and asks the text encoder anew at every step, since the word depends on it.
"""

import argparse
import sys
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from rich.console import Console
from torch import Tensor

from benchmarks.report import deliver
from benchmarks.rounds import race, ratio, told
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


def ours(arguments: argparse.Namespace) -> E4TPipeline:
    """A pipeline with a concept loaded."""
    if arguments.shapes is None:
        pipe = E4TPipeline.from_pretrained(arguments.release)
    else:
        backbone = build_meta_backbone(BackboneConfig(model=arguments.shapes, image_encoder=VIT_H), "cpu")
        encoder = DomainEncoder(DomainEncoderConfig.for_backbone(backbone)).requires_grad_(False)
        conditioning = Conditioning.from_backbone(backbone, CONDITIONING)
        pipe = E4TPipeline(backbone, encoder, conditioning, release="random", resolution=arguments.side)
    shape = pipe.domain_encoder.config
    tokens = torch.randn(1, shape.class_tokens, shape.clip_width)
    pipe.load_concept(Concept(weight_deltas={}, token=EncodedToken(tokens), release=pipe.release))
    return pipe


def theirs(pipe: E4TPipeline) -> StableDiffusionPipeline:
    """Diffusers' own, on the same modules."""
    backbone = pipe.backbone
    plain = StableDiffusionPipeline(
        vae=backbone.vae, text_encoder=backbone.text_encoders.encoders[0], tokenizer=backbone.text_encoders.tokenizers[0],
        unet=backbone.unet, scheduler=backbone.scheduler, safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    plain.set_progress_bar_config(disable=True)
    return plain


def main() -> int:
    """Race them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--release", default="models/faces")
    parser.add_argument("--shapes", default=None, help="of a published base, with random weights, instead of a release")
    parser.add_argument("--side", type=int, default=128, help="of such pictures, in pixels")
    parser.add_argument("--pictures", type=int, default=4, help="at once")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="file for everything that was seen")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    pipe = ours(arguments)
    plain, config = theirs(pipe), SampleConfig(num_inference_steps=arguments.steps, guidance_scale=4.0)
    word = pipe.conditioning.config.domain_word

    def sample(prompt: str) -> Tensor:
        return pipe.sample([prompt] * arguments.pictures, config, seeded_generators(1, arguments.pictures))

    def diffuse() -> Tensor:
        latents: Tensor = plain(
            [word] * arguments.pictures, num_inference_steps=config.num_inference_steps, guidance_scale=config.guidance_scale,
            height=pipe.resolution, width=pipe.resolution, output_type="latent", generator=seeded_generators(1, arguments.pictures),
        ).images  # fmt: skip
        return latents

    contenders = {"concept": lambda: sample(PLACEHOLDER), "word": lambda: sample(word), "diffusers": diffuse}
    apart = float((sample(word) - diffuse()).abs().max())  # and what is made once is made
    if not apart < TOLERANCE:
        raise RuntimeError(f"the same prompt gives latents that differ by {apart:.1e}")
    seconds = race(contenders, arguments.rounds)
    found = {name: ratio(seconds[name], seconds["diffusers"]) for name in ("concept", "word")}
    console.print(f"sampling with a concept takes {told(found['concept'])} times diffusers' time")
    console.print(f"          with the domain's word {told(found['word'])} times")
    if arguments.json:
        deliver(vars(arguments), {"seconds": seconds, "ratios": found}, arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
