"""What pre-training takes."""

from collections.abc import Callable
from dataclasses import replace

import torch

from encoder.backbone.backbone import Backbone
from encoder.backbone.shapes import DUMMY_TOKEN, default_dtype, build_meta_backbone
from encoder.config import PLACEHOLDER
from encoder.model.conditioning import Conditioning
from encoder.model.features import encode_images
from pipelines.config.pretraining import BUCKET, PretrainConfig
from pipelines.config.recipe import Recipe
from pipelines.planning.fake_execution import bytes_of, cost_of, count, without_values
from pipelines.planning.plan import Plan
from pipelines.pretraining.model import DomainModel, draws
from pipelines.runtime.device_specs import Device

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "no": torch.float32}


def plan_pretraining(recipe: Recipe, device: Device, devices: int) -> Plan:
    """Simulate a micro-batch; the rest is arithmetic. Raises ConfigError if the batch cannot be shared."""
    config = recipe.pretrain
    at_once, passes = config.passes(devices)
    dtype = PRECISIONS[config.precision]
    with without_values():
        backbone = build_meta_backbone(recipe.base, "cpu")
        conditioning = plain_conditioning(recipe, backbone)
        with default_dtype(dtype):
            model = DomainModel.start(config, backbone, conditioning)
        if config.gradient_checkpointing:
            backbone.unet.enable_gradient_checkpointing()
        cost = cost_of(_micro_batch(recipe, model, backbone, conditioning, at_once))
        trained, gradients = count(model), count(model) * dtype.itemsize
        memory, host = _memory(config, devices, trained, dtype.itemsize)
        towers = bytes_of(backbone.vae) + bytes_of(backbone.image_encoder) if config.cached and device.is_gpu else 0
        frozen = {"frozen weights": bytes_of(backbone) - towers}
        work = {"activations": max(cost.peak_bytes - gradients, 0), "runtime": device.runtime}
    return Plan(
        stage="pre-training",
        device=device,
        devices=devices,
        trained=trained,
        frozen=count(backbone),
        memory=frozen | memory | work,
        host=host | ({"autoencoder and picture tower": towers} if towers else {}),
        operations=cost.operations // at_once,
        pictures=config.batch_size,
        steps=config.steps,
        communication=_communication(config, devices, passes, gradients),
    )


def plain_conditioning(recipe: Recipe, backbone: Backbone) -> Conditioning:
    """Of the one word that an outline knows."""
    return Conditioning.from_backbone(
        backbone, replace(recipe.conditioning, domain_word=DUMMY_TOKEN, templates=(f"{DUMMY_TOKEN} {PLACEHOLDER}",))
    )


def _micro_batch(
    recipe: Recipe, model: DomainModel, backbone: Backbone, conditioning: Conditioning, size: int
) -> Callable[[], None]:
    side = recipe.data.resolution
    prompts = conditioning.tokenize([f"{DUMMY_TOKEN} {PLACEHOLDER}"] * size)
    conditioning.unconditional_embeddings()
    draw = draws(recipe, backbone, list(range(size)))
    kept = encode_images(backbone, torch.zeros(size, 3, side, side)) if recipe.pretrain.cached else None

    def work() -> None:
        pictures = kept or encode_images(backbone, torch.zeros(size, 3, side, side))
        model(pictures, prompts, draw, recipe.pretrain.regulariser).total.backward()

    return work


def _memory(config: PretrainConfig, devices: int, trained: int, size: int) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes on a device and on its host, as ZeRO shares them (Rajbhandari et al., arXiv 1910.02054)."""
    stage = config.zero_stage
    master = 0 if config.precision == "no" else 4
    optimizer = trained * (master + 8 + 4 * (config.average > 0)) // (devices if stage >= 1 else 1)
    memory = {
        "trained weights": trained * size // (devices if stage == 3 else 1),
        "gradients": trained * size // (devices if stage >= 2 else 1) + min(trained, BUCKET) * size,
    }
    return (memory, {"optimizer": optimizer}) if config.offload_optimizer else (memory | {"optimizer": optimizer}, {})


def _communication(config: PretrainConfig, devices: int, passes: int, gradients: int) -> int:
    """Reduce-scatter and all-gather each send all but a device's own share; stage 3 gathers weights in every pass."""
    gathers = 1 + 2 * passes if config.zero_stage == 3 else 2
    return gathers * gradients * (devices - 1) // devices
