"""``e4t base``: tokenizer, autoencoder, CLIP, UNet, then the measurements; each part is made once and kept."""

from pathlib import Path

import torch
from accelerate import Accelerator
from transformers import CLIPTokenizer

from encoder.pipeline import SampleConfig
from pipelines.base.autoencoder import train_autoencoder
from pipelines.base.clip import train_clip
from pipelines.base.config import BaseConfig
from pipelines.base.diffusion import train_diffusion
from pipelines.base.pictures import load_split
from pipelines.base.tokenizer import train_tokenizer
from pipelines.errors import DONE
from pipelines.launch import inside_cluster, launch

SAMPLE = SampleConfig(steps=30, guidance=4.0, guidance_rescale=0.5)
PROCESSES = 2
"""On one machine; two single-threaded processes are faster than one with two threads (measured: 6.6 against 9.0 ms a sample)."""


def train_base(config: BaseConfig, arguments: list[str]) -> int:
    """Train what the output folder does not hold yet, then measure it."""
    if not inside_cluster():
        code = launch(arguments, PROCESSES)
        if code == DONE:
            from pipelines.base.measure import measure

            measure(config, SAMPLE)
        return code
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="bf16")
    output = Path(config.output)
    if accelerator.is_main_process:
        output.mkdir(parents=True, exist_ok=True)
    accelerator.wait_for_everyone()
    pictures = load_split(Path(config.faces), "train")
    tokenizer: CLIPTokenizer = train_tokenizer((c for captions in pictures.captions for c in captions), config.text_length)
    if not (output / "vae").exists():
        train_autoencoder(config, pictures, accelerator)
    if not (output / "clip" / "model.safetensors").exists():
        train_clip(config, pictures, tokenizer, accelerator)
    if not (output / "unet").exists():
        train_diffusion(config, pictures, tokenizer, accelerator)
    return DONE
