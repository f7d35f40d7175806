"""What to change in a recipe until it fits."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from pipelines.config.recipe import Recipe
from pipelines.planning.plan import Plan

Change = tuple[str, Recipe]


def remedies(recipe: Recipe, plan: Plan, again: Callable[[Recipe], Plan]) -> tuple[list[str], Plan]:
    """Overrides that make it fit, cheapest first, and the plan with them; all there are if even they do not suffice.

    ``again`` plans a changed recipe.
    """
    changes = _pretraining if plan.stage == "pre-training" else _tuning
    made: list[str] = []
    while not plan.fits:
        step = next(changes(recipe, plan.devices), None)
        if step is None:
            break
        text, recipe = step
        made = [*(one for one in made if one.split("=")[0] != text.split("=")[0]), text]
        plan = again(recipe)
    return made, plan


def _pretraining(recipe: Recipe, devices: int) -> Iterator[Change]:
    config = recipe.pretrain
    if recipe.base.dtype == "float32":
        yield "--base.dtype=bfloat16", replace(recipe, base=replace(recipe.base, dtype="bfloat16"))
    if not config.gradient_checkpointing:
        yield "--pretrain.gradient_checkpointing=true", _pretrained(recipe, gradient_checkpointing=True)
    at_once = config.passes(devices)[0]
    if at_once > 1:
        yield f"--pretrain.micro_batch_size={at_once // 2}", _pretrained(recipe, micro_batch_size=at_once // 2)
    if config.offsets != "direct":
        yield "--pretrain.offsets=direct", _pretrained(recipe, offsets="direct")
    if config.zero_stage < 2 and devices > 1:
        yield "--pretrain.zero_stage=2", _pretrained(recipe, zero_stage=2)
    if not config.offload_optimizer:
        yield "--pretrain.offload_optimizer=true", _pretrained(recipe, offload_optimizer=True)


def _tuning(recipe: Recipe, _: int) -> Iterator[Change]:
    config = recipe.tune
    if recipe.base.dtype == "float32":
        yield "--base.dtype=bfloat16", replace(recipe, base=replace(recipe.base, dtype="bfloat16"))
    if not config.gradient_checkpointing:
        yield "--tune.gradient_checkpointing=true", _tuned(recipe, gradient_checkpointing=True)
    if config.optimizer == "adamw" and config.trainable != "lora":
        yield "--tune.optimizer=adamw8bit", _tuned(recipe, optimizer="adamw8bit")
    at_once = min(config.micro_batch_size, config.batch_size)
    if at_once > 1:
        yield f"--tune.micro_batch_size={at_once // 2}", _tuned(recipe, micro_batch_size=at_once // 2)
    if config.trainable == "unet":
        yield "--tune.train=attention", _tuned(recipe, train="attention")
    if config.trainable == "attention":
        yield "--tune.train=lora", _tuned(recipe, train="lora")


def _pretrained(recipe: Recipe, **changes: object) -> Recipe:
    return replace(recipe, pretrain=replace(recipe.pretrain, **changes))  # type: ignore[arg-type]


def _tuned(recipe: Recipe, **changes: object) -> Recipe:
    return replace(recipe, tune=replace(recipe.tune, **changes))  # type: ignore[arg-type]
