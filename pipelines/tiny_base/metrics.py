"""What the tiny base can do, on identities that it has never seen."""

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
from encoder.pipeline import E4TPipeline
from pipelines.runtime.image_grid import labelled_grid
from pipelines.tiny_base.attribute_classifier import FILE, IDENTITY, SCENE, AttributeReader, truth
from pipelines.tiny_base.config import BaseConfig
from pipelines.tiny_base.dataset import Pictures, load_split
from pipelines.tiny_base.recognizer import FOLDER, recall
from pipelines.tiny_base.train_attributes import labels

GRID = "grid.png"
GALLERY = 500
"""Captions among which a picture's own must be found."""


def measure(config: BaseConfig, sample: SampleConfig) -> dict[str, Any]:
    """Measure, write ``report.json`` and ``grid.png`` into the base's folder, and return the report."""
    output = Path(config.output)
    pictures = load_split(Path(config.pictures), "test")
    scorer = ClipScorer(str(output / "clip"))
    features = torch.cat([scorer.image_features(pictures.images(rows)) for rows in torch.arange(len(pictures)).split(256)])
    report = {
        "test_identities": len(set(pictures.identities)),
        "vae_psnr_db": psnr(AutoencoderKL.from_pretrained(output / "vae", use_safetensors=True).eval(), pictures),
        "clip_retrieval": retrieval(scorer, pictures, features),
        "clip_identity_auc": identity_auc(features, pictures.identities),
    }
    if (output / FOLDER).exists():
        report["recogniser"] = recall(ImageFeatureExtractor(str(output / FOLDER)), pictures)
    if (output / FILE).exists():
        report["attribute_reader_accuracy"] = reader_accuracy(AttributeReader.load(output), pictures)
        report["base_obeys_prompts"] = obedience(config, sample, output / GRID)
    else:
        paint_captions(config, sample, pictures, output / GRID)
    atomic_write(output / "report.json", json.dumps(report, indent=1) + "\n")
    return report


@torch.no_grad()
def psnr(vae: AutoencoderKL, pictures: Pictures, count: int = 512) -> float:
    """Mean over pictures of the reconstruction's peak signal-to-noise ratio in dB."""
    values = []
    for rows in torch.linspace(0, len(pictures) - 1, count).long().split(64):
        images = pictures.images(rows)
        decoded = vae.decode(vae.encode(images).latent_dist.mode()).sample.clamp(-1, 1)
        values.append(10 * torch.log10(4 / (decoded - images).pow(2).mean(dim=(1, 2, 3))))
    return float(torch.cat(values).mean())


def retrieval(scorer: ClipScorer, pictures: Pictures, features: Tensor) -> dict[str, float]:
    """How often a picture's complete caption is first, or among the first five, of ``GALLERY``."""
    rows = torch.linspace(0, len(pictures) - 1, GALLERY).long()
    texts = scorer.text_features([pictures.captions[row][1] for row in rows.tolist()])
    order = (features[rows] @ texts.T).argsort(dim=1, descending=True)
    rank = (order == torch.arange(GALLERY)[:, None]).float().argmax(dim=1)
    return {"gallery": GALLERY, "top1": float((rank < 1).float().mean()), "top5": float((rank < 5).float().mean())}


def identity_auc(features: Tensor, identities: list[str]) -> float:
    """Probability that two pictures of one person are closer than pictures of two (area under the ROC curve)."""
    names = np.array(identities)
    same = torch.from_numpy(names[:, None] == names[None])
    upper = torch.triu(torch.ones_like(same), diagonal=1)
    cosine = features @ features.T
    alike, other = cosine[same & upper].sort().values, cosine[~same & upper]
    other = other[torch.randperm(len(other), generator=torch.Generator().manual_seed(0))[:200_000]]
    return 1 - float(torch.searchsorted(alike, other).float().mean()) / len(alike)


@torch.no_grad()
def reader_accuracy(reader: AttributeReader, pictures: Pictures) -> dict[str, float]:
    """How often the reader is right about true pictures: the ceiling of every number that it gives."""
    wanted = labels(pictures)
    best = [
        {name: logits.argmax(1) for name, logits in reader(pictures.images(rows)).items()}
        for rows in torch.arange(len(pictures)).split(256)
    ]
    return {name: float((torch.cat([part[name] for part in best]) == wanted[name]).float().mean()) for name in wanted}


def obedience(config: BaseConfig, sample: SampleConfig, grid: Path, count: int = 128) -> dict[str, float]:
    """How often a generated picture shows what its prompt says, as the reader sees it.

    Half of the prompts name the scene alone, half the person, too; shares of a person's attributes are over the latter.
    """
    rng = random.Random(config.seed)
    scenes = [Scene.random(rng) for _ in range(count)]
    people = [Identity.random(rng) for _ in range(count)]
    prompts = [
        scene.caption(f"a {{expression}} person {who.describe()}") for scene, who in zip(scenes, people, strict=True)
    ]
    half = count // 2
    prompts[:half] = [scene.caption() for scene in scenes[:half]]
    pipe = _painter(config)
    images: list[Image.Image] = []
    for start in range(0, count, 32):
        latents = pipe.sample(prompts[start : start + 32], sample, seed=start)
        images += pipe.to_images(latents)
    _grid(images, prompts).save(grid)
    read = AttributeReader.load(config.output).read(torch.cat([pipe.preprocess(image) for image in images]))
    known = [truth(who, scene) for who, scene in zip(people, scenes, strict=True)]
    scene_shares = {name: sum(r[name] == k[name] for r, k in zip(read, known, strict=True)) / count for name in SCENE}
    return scene_shares | {
        name: sum(r[name] == k[name] for r, k in zip(read[half:], known[half:], strict=True)) / half
        for name in IDENTITY
    }


def paint_captions(config: BaseConfig, sample: SampleConfig, pictures: Pictures, grid: Path, count: int = 12) -> None:
    """Paint the complete captions of some test pictures, as they come."""
    rows = torch.linspace(0, len(pictures) - 1, count).long().tolist()
    prompts = [pictures.captions[row][1] for row in rows]
    pipe = _painter(config)
    _captioned(pipe.to_images(pipe.sample(prompts, sample, seed=0)), prompts, columns=6).save(grid)


def _painter(config: BaseConfig) -> E4TPipeline:
    return E4TPipeline.from_base(
        BackboneConfig(model=config.output), ConditioningConfig(domain_word=config.domain_word)
    )


def _grid(images: list[Image.Image], prompts: list[str], columns: int = 6) -> Image.Image:
    half = len(images) // 2
    chosen = [*range(columns), *range(half, half + columns)]
    wrapped = [prompts[index].removeprefix("a portrait of ") for index in chosen]
    return _captioned([images[index] for index in chosen], wrapped, columns)


def _captioned(images: list[Image.Image], prompts: list[str], columns: int) -> Image.Image:
    strips = [
        labelled_grid(
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
