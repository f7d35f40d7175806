"""What tuning on a picture takes."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor

from encoder.backbone.shapes import DUMMY_TOKEN, build_meta_backbone
from encoder.config import PLACEHOLDER
from encoder.model.domain_encoder import DomainEncoder, DomainEncoderConfig
from encoder.tuning.tuner import TuningImages, Tuner
from pipelines.config.recipe import Recipe
from pipelines.planning.fake_execution import bytes_of, cost_of, count, without_values
from pipelines.planning.plan import Plan
from pipelines.planning.pretraining import plain_conditioning
from pipelines.pretraining.model import draws
from pipelines.runtime.device_specs import Device

MOMENTS = {"adamw": 8.0, "adamw8bit": 2 + 8 / 256}
"""Bytes a number that AdamW keeps; in 8 bits, blocks of 256 have a scale each."""


def plan_tuning(recipe: Recipe, device: Device) -> Plan:
    """Simulate a micro-batch of the very code; the rest is arithmetic."""
    config, side = recipe.tune, recipe.data.resolution
    with without_values():
        backbone = build_meta_backbone(recipe.base, "cpu")
        conditioning = plain_conditioning(recipe, backbone)
        width, sees = recipe.pretrain.hidden_width, recipe.pretrain.encoder_sees
        encoder = DomainEncoder(DomainEncoderConfig.for_backbone(backbone, width, sees))
        plain = replace(config, optimizer="adamw")  # no step is taken, and others need a library
        tuning = Tuner(backbone, encoder, conditioning, TuningImages(pixels=torch.zeros(1, 3, side, side)), plain)
        draw = draws(recipe, backbone, list(range(config.batch_size)))
        prompts = conditioning.tokenize([f"{DUMMY_TOKEN} {PLACEHOLDER}"] * config.batch_size)
        rows = slice(0, min(config.micro_batch_size, config.batch_size))
        with tuning:
            cost = cost_of(lambda: _micro_batch(tuning, lambda: tuning.compute_losses(rows, draw, prompts).total))
            weights, factors = tuning.trainable.weights, tuning.trainable.lora_factors
        looked_at = bytes_of(backbone.vae) + bytes_of(backbone.image_encoder)
        frozen = bytes_of(backbone) + bytes_of(encoder) - looked_at - _bytes(weights)
    rounded = [weight for weight in weights if weight.dtype != torch.float32]  # stepped as float32, one by one
    concept = (_numbers(weights) * config.delta_bits + _numbers(factors) * 16) // 8
    originals = {"original weights": _bytes(weights), "autoencoder and picture tower": looked_at}
    memory = {
        "frozen weights": frozen,
        "trained weights": _bytes([*weights, *factors]),
        "what rounding took": _bytes(rounded),
        "optimizer": int(MOMENTS[config.optimizer] * _numbers([*weights, *factors])),
        "a weight's step": max((4 * 4 * low.numel() for low in rounded), default=0),
        "activations, later the concept": max(cost.peak_bytes, 0 if device.is_gpu else concept),
        "runtime": device.runtime,
    }
    return Plan(
        stage="tuning",
        device=device,
        devices=1,
        trained=_numbers([*weights, *factors]),
        frozen=count(backbone) + count(encoder) - _numbers(weights),
        memory=memory if device.is_gpu else originals | memory,
        host=originals | {"the concept": concept} if device.is_gpu else {},
        operations=cost.operations // rows.stop,
        pictures=config.batch_size,
        steps=config.steps,
        communication=0,
    )


def _micro_batch(tuning: Tuner, loss: Callable[[], Tensor]) -> None:
    """Gradients go as they come if no further micro-batch adds to them, as in the steps themselves."""
    learning = [*tuning.trainable.weights, *tuning.trainable.lora_factors]
    alone = tuning.config.batch_size <= tuning.config.micro_batch_size
    hooks = [each.register_post_accumulate_grad_hook(_free) for each in learning] if alone else []
    loss().backward()
    for hook in hooks:
        hook.remove()


def _free(parameter: Tensor) -> None:
    parameter.grad = None


def _numbers(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
