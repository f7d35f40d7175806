"""Measure the tiny base model on test identities."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor

from data_prep.storage.atomic import atomic_write
from data_prep.synthetic.faces import Identity, Scene
from encoder.config import BackboneConfig, ConditioningConfig, SampleConfig
from encoder.metrics import ClipScorer, ImageFeatureExtractor
from encoder.model.sampling import seeded_generators
from encoder.pipeline import E4TPipeline
from pipelines.runtime.image_grid import labeled_grid
from pipelines.tiny_base.attribute_classifier import (
    ATTRIBUTE_WEIGHTS_NAME,
    IDENTITY_ATTRIBUTES,
    SCENE_ATTRIBUTES,
    AttributeClassifier,
    expected_attributes,
)
from pipelines.tiny_base.config import BaseConfig
from pipelines.tiny_base.dataset import CaptionedImages, load_split
from pipelines.tiny_base.recognizer import RECOGNIZER_DIR, recall
from pipelines.tiny_base.train_attributes import attribute_labels

GRID_NAME = "grid.png"
GALLERY_SIZE = 500
"""Number of captions among which the caption of an image must be retrieved."""


def evaluate_base(config: BaseConfig, sample: SampleConfig) -> dict[str, Any]:
    """Measure all parts, write ``report.json`` and ``grid.png`` to the base model's folder, and return the report."""
    output = Path(config.output)
    dataset = load_split(Path(config.image_dir), "test")
    scorer = ClipScorer(str(output / "clip"))
    features = torch.cat(
        [scorer.image_features(dataset.images(rows)) for rows in torch.arange(len(dataset)).split(256)]
    )
    report = {
        "test_identities": len(set(dataset.identities)),
        "vae_psnr_db": psnr(AutoencoderKL.from_pretrained(output / "vae", use_safetensors=True).eval(), dataset),
        "clip_retrieval": caption_retrieval(scorer, dataset, features),
        "clip_identity_auc": identity_auc(features, dataset.identities),
    }
    if (output / RECOGNIZER_DIR).exists():
        report["recognizer"] = recall(ImageFeatureExtractor(str(output / RECOGNIZER_DIR)), dataset)
    if (output / ATTRIBUTE_WEIGHTS_NAME).exists():
        report["attribute_classifier_accuracy"] = classifier_accuracy(AttributeClassifier.load(output), dataset)
        report["prompt_accuracy"] = prompt_accuracy(config, sample, output / GRID_NAME)
    else:
        save_caption_grid(config, sample, dataset, output / GRID_NAME)
    atomic_write(output / "report.json", json.dumps(report, indent=1) + "\n")
    return report


@torch.no_grad()
def psnr(vae: AutoencoderKL, dataset: CaptionedImages, count: int = 512) -> float:
    """Return the mean peak signal-to-noise ratio of reconstructions in dB."""
    values = []
    for rows in torch.linspace(0, len(dataset) - 1, count).long().split(64):
        images = dataset.images(rows)
        decoded = vae.decode(vae.encode(images).latent_dist.mode()).sample.clamp(-1, 1)
        values.append(10 * torch.log10(4 / (decoded - images).pow(2).mean(dim=(1, 2, 3))))
    return float(torch.cat(values).mean())


def caption_retrieval(scorer: ClipScorer, dataset: CaptionedImages, features: Tensor) -> dict[str, float]:
    """Return how often the complete caption of an image ranks first, or among the first five, of ``GALLERY_SIZE``."""
    rows = torch.linspace(0, len(dataset) - 1, GALLERY_SIZE).long()
    texts = scorer.text_features([dataset.captions[row][1] for row in rows.tolist()])
    order = (features[rows] @ texts.T).argsort(dim=1, descending=True)
    rank = (order == torch.arange(GALLERY_SIZE)[:, None]).float().argmax(dim=1)
    return {"gallery": GALLERY_SIZE, "top1": float((rank < 1).float().mean()), "top5": float((rank < 5).float().mean())}


def identity_auc(features: Tensor, identities: list[str]) -> float:
    """Return the area under the ROC curve of identity verification.

    It is the probability that two images of one person are more similar than images of two people.
    """
    names = np.array(identities)
    same = torch.from_numpy(names[:, None] == names[None])
    upper = torch.triu(torch.ones_like(same), diagonal=1)
    cosine = features @ features.T
    same_identity, different_identity = cosine[same & upper].sort().values, cosine[~same & upper]
    different_identity = different_identity[
        torch.randperm(len(different_identity), generator=torch.Generator().manual_seed(0))[:200_000]
    ]
    return 1 - float(torch.searchsorted(same_identity, different_identity).float().mean()) / len(same_identity)


@torch.no_grad()
def classifier_accuracy(classifier: AttributeClassifier, dataset: CaptionedImages) -> dict[str, float]:
    """Return the accuracy of the attribute classifier on drawn images, an upper bound of every score it gives."""
    targets = attribute_labels(dataset)
    predictions = [
        {name: logits.argmax(1) for name, logits in classifier(dataset.images(rows)).items()}
        for rows in torch.arange(len(dataset)).split(256)
    ]
    return {
        name: float((torch.cat([part[name] for part in predictions]) == targets[name]).float().mean())
        for name in targets
    }


def prompt_accuracy(config: BaseConfig, sample: SampleConfig, grid: Path, count: int = 128) -> dict[str, float]:
    """Return, per attribute, how often generated images show what their prompt says, judged by the classifier.

    Half of the prompts name the scene only, the other half also the person; identity attributes use the second half.
    """
    rng = random.Random(config.seed)
    scenes = [Scene.random(rng) for _ in range(count)]
    people = [Identity.random(rng) for _ in range(count)]
    prompts = [
        scene.caption(f"a {{expression}} person {who.describe()}") for scene, who in zip(scenes, people, strict=True)
    ]
    half = count // 2
    prompts[:half] = [scene.caption() for scene in scenes[:half]]
    pipe = _load_pipeline(config)
    images: list[Image.Image] = []
    for start in range(0, count, 32):
        batch = prompts[start : start + 32]
        latents = pipe.sample(batch, sample, seeded_generators(start, len(batch)))
        images += pipe.to_images(latents)
    _prompt_grid(images, prompts).save(grid)
    predicted = AttributeClassifier.load(config.output).predict(torch.cat([pipe.preprocess(image) for image in images]))
    expected = [expected_attributes(who, scene) for who, scene in zip(people, scenes, strict=True)]
    scene_accuracy = {
        name: sum(r[name] == k[name] for r, k in zip(predicted, expected, strict=True)) / count
        for name in SCENE_ATTRIBUTES
    }
    return scene_accuracy | {
        name: sum(r[name] == k[name] for r, k in zip(predicted[half:], expected[half:], strict=True)) / half
        for name in IDENTITY_ATTRIBUTES
    }


def save_caption_grid(
    config: BaseConfig, sample: SampleConfig, dataset: CaptionedImages, grid: Path, count: int = 12
) -> None:
    """Generate images of the complete captions of some test images and save them as a grid."""
    rows = torch.linspace(0, len(dataset) - 1, count).long().tolist()
    prompts = [dataset.captions[row][1] for row in rows]
    pipe = _load_pipeline(config)
    images = pipe.to_images(pipe.sample(prompts, sample, seeded_generators(0, len(prompts))))
    _captioned_grid(images, prompts, columns=6).save(grid)


def _load_pipeline(config: BaseConfig) -> E4TPipeline:
    return E4TPipeline.from_base(
        BackboneConfig(model=config.output), ConditioningConfig(domain_word=config.domain_word)
    )


def _prompt_grid(images: list[Image.Image], prompts: list[str], columns: int = 6) -> Image.Image:
    half = len(images) // 2
    chosen = [*range(columns), *range(half, half + columns)]
    captions = [prompts[index].removeprefix("a portrait of ") for index in chosen]
    return _captioned_grid([images[index] for index in chosen], captions, columns)


def _captioned_grid(images: list[Image.Image], prompts: list[str], columns: int) -> Image.Image:
    strips = [
        labeled_grid(
            [images[start : start + columns]],
            [_wrap(prompt) for prompt in prompts[start : start + columns]],
            label_height=110,
        )
        for start in range(0, len(images), columns)
    ]
    sheet = Image.new("RGB", (strips[0].width, sum(strip.height for strip in strips)), "white")
    for number, strip in enumerate(strips):
        sheet.paste(strip, (0, number * strip.height))
    return sheet


def _wrap(text: str, width: int = 20) -> str:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)
