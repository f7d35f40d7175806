"""Suggest recipe overrides that make a plan fit the memory of the device."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from pipelines.config.recipe import Recipe
from pipelines.planning.plan import Plan

Override = tuple[str, Recipe]
"""A command-line override and the recipe with it applied."""


def suggest_overrides(recipe: Recipe, plan: Plan, replan: Callable[[Recipe], Plan]) -> tuple[list[str], Plan]:
    """Return the overrides that make the plan fit, cheapest first, and the plan with them applied.

    Returns all known overrides if even those do not suffice. ``replan`` plans a changed recipe.
    """
    list_overrides = _pretraining_overrides if plan.stage == "pre-training" else _tuning_overrides
    overrides: list[str] = []
    while not plan.fits:
        override = next(list_overrides(recipe, plan.num_devices), None)
        if override is None:
            break
        text, recipe = override
        key = text.partition("=")[0]
        overrides = [*(each for each in overrides if each.partition("=")[0] != key), text]
        plan = replan(recipe)
    return overrides, plan


def _pretraining_overrides(recipe: Recipe, num_devices: int) -> Iterator[Override]:
    config = recipe.pretrain
    if recipe.base.dtype == "float32":
        yield "--base.dtype=bfloat16", replace(recipe, base=replace(recipe.base, dtype="bfloat16"))
    if not config.gradient_checkpointing:
        yield "--pretrain.gradient_checkpointing=true", _replace_pretrain(recipe, gradient_checkpointing=True)
    micro_batch_size = config.micro_batch_split(num_devices)[0]
    if micro_batch_size > 1:
        yield (
            f"--pretrain.micro_batch_size={micro_batch_size // 2}",
            _replace_pretrain(recipe, micro_batch_size=micro_batch_size // 2),
        )
    if config.offset_type != "low_rank":
        yield "--pretrain.offset_type=low_rank", _replace_pretrain(recipe, offset_type="low_rank")
    if config.zero_stage < 2 and num_devices > 1:
        yield "--pretrain.zero_stage=2", _replace_pretrain(recipe, zero_stage=2)
    if not config.offload_optimizer:
        yield "--pretrain.offload_optimizer=true", _replace_pretrain(recipe, offload_optimizer=True)


def _tuning_overrides(recipe: Recipe, _: int) -> Iterator[Override]:
    config = recipe.tune
    if recipe.base.dtype == "float32":
        yield "--base.dtype=bfloat16", replace(recipe, base=replace(recipe.base, dtype="bfloat16"))
    if not config.gradient_checkpointing:
        yield "--tune.gradient_checkpointing=true", _replace_tune(recipe, gradient_checkpointing=True)
    if config.optimizer == "adamw" and config.trainable != "lora":
        yield "--tune.optimizer=adamw8bit", _replace_tune(recipe, optimizer="adamw8bit")
    micro_batch_size = min(config.micro_batch_size, config.batch_size)
    if micro_batch_size > 1:
        yield (
            f"--tune.micro_batch_size={micro_batch_size // 2}",
            _replace_tune(recipe, micro_batch_size=micro_batch_size // 2),
        )
    if config.trainable == "unet":
        yield "--tune.trainable=attention", _replace_tune(recipe, trainable="attention")
    if config.trainable == "attention":
        yield "--tune.trainable=lora", _replace_tune(recipe, trainable="lora")


def _replace_pretrain(recipe: Recipe, **changes: object) -> Recipe:
    return replace(recipe, pretrain=replace(recipe.pretrain, **changes))  # type: ignore[arg-type]


def _replace_tune(recipe: Recipe, **changes: object) -> Recipe:
    return replace(recipe, tune=replace(recipe.tune, **changes))  # type: ignore[arg-type]
