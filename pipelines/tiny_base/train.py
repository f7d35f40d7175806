"""``e4t demo base``: train tokenizer, autoencoder, CLIP and UNet, then measure them. Finished parts are kept."""

from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from transformers import CLIPTokenizer

from encoder.config import SampleConfig
from pipelines.errors import EXIT_OK
from pipelines.runtime.launch import is_distributed_worker, launch
from pipelines.tiny_base.autoencoder import train_autoencoder
from pipelines.tiny_base.clip import train_clip
from pipelines.tiny_base.config import BaseConfig
from pipelines.tiny_base.dataset import CaptionedImages, load_split
from pipelines.tiny_base.diffusion import train_diffusion
from pipelines.tiny_base.recognizer import train_recognizer
from pipelines.tiny_base.tokenizer import train_tokenizer
from pipelines.tiny_base.train_attributes import train_attributes

SAMPLE_CONFIG = SampleConfig(num_inference_steps=30, guidance_scale=4.0, guidance_rescale=0.5)
NUM_PROCESSES = 2
"""Number of training processes. On two cores, two single-threaded processes are faster than one with two threads."""


def train_base(config: BaseConfig, arguments: list[str]) -> int:
    """Train the configured parts, then measure the base model. Returns the exit code. Saved weights are fp16."""
    if not is_distributed_worker():
        code = launch(arguments, NUM_PROCESSES)
        if code == EXIT_OK:
            from pipelines.tiny_base.metrics import evaluate_base

            evaluate_base(config, SAMPLE_CONFIG)
        return code
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="bf16")
    output = Path(config.output)
    if accelerator.is_main_process:
        output.mkdir(parents=True, exist_ok=True)
    accelerator.wait_for_everyone()
    dataset = load_split(Path(config.image_dir), "train")
    tokenizer = _load_or_train_tokenizer(config, dataset)
    trainings: dict[str, Callable[[], None]] = {
        "autoencoder": lambda: train_autoencoder(config, dataset, accelerator),
        "clip": lambda: train_clip(config, dataset, tokenizer, accelerator),
        "attributes": lambda: train_attributes(config, dataset, accelerator),
        "recognizer": lambda: train_recognizer(config, accelerator),
        "diffusion": lambda: train_diffusion(config, dataset, tokenizer, accelerator),
    }
    for part, train in trainings.items():
        if part in config.parts:
            train()
    return EXIT_OK


def _load_or_train_tokenizer(config: BaseConfig, dataset: CaptionedImages) -> CLIPTokenizer:
    """Load the tokenizer of the existing parts, or train one. A new tokenizer would number tokens differently."""
    for folder in (Path(config.output) / "tokenizer", Path(config.output) / "clip"):
        if (folder / "tokenizer.json").exists():
            tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder)
            return tokenizer
    return train_tokenizer((c for captions in dataset.captions for c in captions), config.text_length)
