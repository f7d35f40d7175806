"""Plan tuning on one image: simulate one micro-batch on fake tensors and derive memory and speed."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor

from encoder.backbone.shapes import DUMMY_TOKEN, build_meta_backbone
from encoder.model.domain_encoder import DomainEncoder, DomainEncoderConfig
from encoder.placeholder import PLACEHOLDER
from encoder.tuning.inputs import TuningImages
from encoder.tuning.tuner import Tuner
from pipelines.config.recipe import Recipe
from pipelines.planning.fake_execution import fake_tensors, measure_cost, module_bytes, num_parameters
from pipelines.planning.plan import Plan
from pipelines.planning.pretraining import dummy_conditioning
from pipelines.pretraining.model import sample_noise
from pipelines.runtime.device_specs import Device

OPTIMIZER_BYTES_PER_PARAMETER = {"adamw": 8.0, "adamw8bit": 2 + 8 / 256}
"""Bytes of AdamW's two moments per parameter; 8-bit moments have one float32 scale per block of 256 values."""


def plan_tuning(recipe: Recipe, device: Device) -> Plan:
    """Estimate memory and speed of tuning on ``device``.

    One micro-batch of the real tuner runs on fake tensors; everything else is arithmetic.
    """
    config, resolution = recipe.tune, recipe.data.resolution
    with fake_tensors():
        backbone = build_meta_backbone(recipe.base, "cpu")
        conditioning = dummy_conditioning(recipe, backbone)
        hidden_width, encoder_inputs = recipe.pretrain.hidden_width, recipe.pretrain.encoder_inputs
        encoder = DomainEncoder(DomainEncoderConfig.for_backbone(backbone, hidden_width, encoder_inputs))
        adamw_config = replace(config, optimizer="adamw")  # no step is taken; other optimizers need their library
        tuner = Tuner(
            backbone,
            encoder,
            conditioning,
            TuningImages(pixels=torch.zeros(1, 3, resolution, resolution)),
            adamw_config,
        )
        noise_sample = sample_noise(recipe, backbone, list(range(config.batch_size)))
        prompts = conditioning.tokenize([f"{DUMMY_TOKEN} {PLACEHOLDER}"] * config.batch_size)
        micro_batch = slice(0, min(config.micro_batch_size, config.batch_size))
        with tuner:
            cost = measure_cost(
                lambda: _run_micro_batch(tuner, lambda: tuner.compute_losses(micro_batch, noise_sample, prompts).total)
            )
            weights, lora_factors = tuner.trainable.weights, tuner.trainable.lora_factors
        encoder_bytes = module_bytes(backbone.vae) + module_bytes(backbone.image_encoder)
        frozen_bytes = module_bytes(backbone) + module_bytes(encoder) - encoder_bytes - _num_bytes(weights)
    # The in-backward optimizer steps weights below float32 one by one, as float32 with a rounding residual.
    low_precision_weights = [weight for weight in weights if weight.dtype != torch.float32]
    concept_bytes = (_num_elements(weights) * config.delta_bits + _num_elements(lora_factors) * 16) // 8
    original_memory = {"original weights": _num_bytes(weights), "VAE and CLIP image encoder": encoder_bytes}
    step_memory = {
        "frozen weights": frozen_bytes,
        "trained weights": _num_bytes([*weights, *lora_factors]),
        "rounding residuals": _num_bytes(low_precision_weights),
        "optimizer": int(OPTIMIZER_BYTES_PER_PARAMETER[config.optimizer] * _num_elements([*weights, *lora_factors])),
        "optimizer step buffer": max((4 * 4 * low.numel() for low in low_precision_weights), default=0),
        "activations / concept": max(cost.peak_bytes, 0 if device.is_gpu else concept_bytes),
        "runtime": device.overhead_bytes,
    }
    return Plan(
        stage="tuning",
        device=device,
        num_devices=1,
        num_trainable=_num_elements([*weights, *lora_factors]),
        num_frozen=num_parameters(backbone) + num_parameters(encoder) - _num_elements(weights),
        device_memory=step_memory if device.is_gpu else original_memory | step_memory,
        host_memory=original_memory | {"concept": concept_bytes} if device.is_gpu else {},
        flops_per_image=cost.flops // micro_batch.stop,
        global_batch_size=config.batch_size,
        max_steps=config.steps,
        comm_bytes=0,
    )


def _run_micro_batch(tuner: Tuner, loss_fn: Callable[[], Tensor]) -> None:
    """Run a forward and backward pass; free a gradient once no further micro-batch adds to it, as the tuner does."""
    trainable = [*tuner.trainable.weights, *tuner.trainable.lora_factors]
    is_single = tuner.config.batch_size <= tuner.config.micro_batch_size
    hooks = [each.register_post_accumulate_grad_hook(_free_grad) for each in trainable] if is_single else []
    loss_fn().backward()
    for hook in hooks:
        hook.remove()


def _free_grad(parameter: Tensor) -> None:
    parameter.grad = None


def _num_elements(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def _num_bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
