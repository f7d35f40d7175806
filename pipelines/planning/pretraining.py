"""Plan pre-training: simulate one micro-batch on fake tensors and derive memory, communication and speed."""

from collections.abc import Callable
from dataclasses import replace

import torch

from encoder.backbone.backbone import Backbone
from encoder.backbone.shapes import DUMMY_TOKEN, build_meta_backbone, default_dtype
from encoder.model.conditioning import Conditioning
from encoder.model.features import encode_images
from encoder.placeholder import PLACEHOLDER
from pipelines.config.pretraining import ZERO_BUCKET_SIZE, PretrainConfig
from pipelines.config.recipe import Recipe
from pipelines.planning.fake_execution import fake_tensors, measure_cost, module_bytes, num_parameters
from pipelines.planning.plan import Plan
from pipelines.pretraining.model import DomainModel, sample_noise
from pipelines.runtime.device_specs import Device

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def plan_pretraining(recipe: Recipe, device: Device, num_devices: int) -> Plan:
    """Estimate memory and speed of pre-training on ``num_devices`` devices.

    One micro-batch runs on fake tensors; everything else is arithmetic. Raises ConfigError if the global batch cannot
    be divided among the devices.
    """
    config = recipe.pretrain
    micro_batch_size, accumulation_steps = config.micro_batch_split(num_devices)
    dtype = DTYPES[config.precision]
    with fake_tensors():
        backbone = build_meta_backbone(recipe.base, "cpu")
        conditioning = dummy_conditioning(recipe, backbone)
        with default_dtype(dtype):
            model = DomainModel.build(config, backbone, conditioning)
        if config.gradient_checkpointing:
            backbone.unet.enable_gradient_checkpointing()
        cost = measure_cost(_make_micro_batch(recipe, model, backbone, conditioning, micro_batch_size))
        num_trainable, gradient_bytes = num_parameters(model), num_parameters(model) * dtype.itemsize
        state_memory, host_memory = _state_memory(config, num_devices, num_trainable, dtype.itemsize)
        encoder_bytes = (
            module_bytes(backbone.vae) + module_bytes(backbone.image_encoder)
            if config.use_feature_cache and device.is_gpu
            else 0
        )
        frozen_memory = {"frozen weights": module_bytes(backbone) - encoder_bytes}
        working_memory = {"activations": max(cost.peak_bytes - gradient_bytes, 0), "runtime": device.overhead_bytes}
    return Plan(
        stage="pre-training",
        device=device,
        num_devices=num_devices,
        num_trainable=num_trainable,
        num_frozen=num_parameters(backbone),
        device_memory=frozen_memory | state_memory | working_memory,
        host_memory=host_memory | ({"VAE and CLIP image encoder": encoder_bytes} if encoder_bytes else {}),
        flops_per_image=cost.flops // micro_batch_size,
        global_batch_size=config.global_batch_size,
        max_steps=config.max_steps,
        comm_bytes=_comm_bytes(config, num_devices, accumulation_steps, gradient_bytes),
    )


def dummy_conditioning(recipe: Recipe, backbone: Backbone) -> Conditioning:
    """Build a conditioning whose only word is the one that the tokenizer of a meta backbone knows."""
    return Conditioning.from_backbone(
        backbone, replace(recipe.conditioning, domain_word=DUMMY_TOKEN, templates=(f"{DUMMY_TOKEN} {PLACEHOLDER}",))
    )


def _make_micro_batch(
    recipe: Recipe, model: DomainModel, backbone: Backbone, conditioning: Conditioning, micro_batch_size: int
) -> Callable[[], None]:
    resolution = recipe.data.resolution
    prompts = conditioning.tokenize([f"{DUMMY_TOKEN} {PLACEHOLDER}"] * micro_batch_size)
    conditioning.unconditional_embeddings()
    noise_sample = sample_noise(recipe, backbone, list(range(micro_batch_size)))
    cached_images = (
        encode_images(backbone, torch.zeros(micro_batch_size, 3, resolution, resolution))
        if recipe.pretrain.use_feature_cache
        else None
    )

    def forward_backward() -> None:
        images = cached_images or encode_images(backbone, torch.zeros(micro_batch_size, 3, resolution, resolution))
        model(images, prompts, noise_sample, recipe.pretrain.regularization_weight).total.backward()

    return forward_backward


def _state_memory(
    config: PretrainConfig, num_devices: int, num_trainable: int, element_size: int
) -> tuple[dict[str, int], dict[str, int]]:
    """Return bytes per part on a device and on its host, sharded by ZeRO (Rajbhandari et al., arXiv 1910.02054)."""
    stage = config.zero_stage
    master_bytes = 0 if config.precision == "fp32" else 4
    optimizer = num_trainable * (master_bytes + 8 + 4 * (config.ema_decay > 0)) // (num_devices if stage >= 1 else 1)
    memory = {
        "trained weights": num_trainable * element_size // (num_devices if stage == 3 else 1),
        "gradients": num_trainable * element_size // (num_devices if stage >= 2 else 1)
        + min(num_trainable, ZERO_BUCKET_SIZE) * element_size,
    }
    return (memory, {"optimizer": optimizer}) if config.offload_optimizer else (memory | {"optimizer": optimizer}, {})


def _comm_bytes(config: PretrainConfig, num_devices: int, accumulation_steps: int, gradient_bytes: int) -> int:
    """Return the bytes that a device sends per step.

    Reduce-scatter and all-gather each send everything except the device's own shard; ZeRO stage 3 also gathers the
    weights for each forward and backward pass of every micro-batch.
    """
    num_transfers = 1 + 2 * accumulation_steps if config.zero_stage == 3 else 2
    return num_transfers * gradient_bytes * (num_devices - 1) // num_devices
