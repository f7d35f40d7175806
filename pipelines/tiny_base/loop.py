"""One loop for the three trainings: clock-bound, logged, saved as it goes."""

import copy
import json
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from pipelines.tiny_base.config import TimeBudget

WARMUP_FRACTION = 0.03
LOG_EVERY_SECONDS = 15.0
SAVE_EVERY_SECONDS = 180.0
EMA_DECAY = 0.998
AVERAGE_EVERY_STEPS = 16
"""Steps between averages of the weights over the processes: local SGD (Stich, arXiv 1805.09767). An all-reduce of the
gradients at every step took half of the time on a CPU."""

B = TypeVar("B")
Tensors = tuple[Tensor, ...] | list[Tensor]
M = TypeVar("M", bound=nn.Module)


def train(
    name: str,
    model: nn.Module,
    batches: Iterable[B],
    loss_fn: Callable[[nn.Module, B], dict[str, Tensor]],
    save_fn: Callable[[nn.Module], None],
    budget: TimeBudget,
    output_dir: Path,
    accelerator: Accelerator,
) -> None:
    """Train until the budget is used up; ``save`` gets a moving average of the weights, now and then and at the end.

    ``loss_of`` returns named losses, the first of which is minimised. The log goes to ``<folder>/<name>.jsonl``.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=budget.learning_rate, weight_decay=0.01, betas=(0.9, 0.99))
    ema = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=_moving_average)
    _average_weights(model, accelerator)
    start = last_log_time = last_save_time = time.monotonic()
    progress = 0.0
    for step, batch in enumerate(batches):
        progress = _progress(start, budget, accelerator) if step % AVERAGE_EVERY_STEPS == 0 else progress
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = budget.learning_rate * min(
                1.0, progress / WARMUP_FRACTION, 0.5 + 0.5 * math.cos(math.pi * progress)
            )
        with accelerator.autocast():
            losses = loss_fn(model, batch)
        optimizer.zero_grad()
        accelerator.backward(next(iter(losses.values())))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % AVERAGE_EVERY_STEPS == 0:
            _average_weights(model, accelerator)
        ema.update_parameters(model)
        now = time.monotonic()
        if accelerator.is_main_process and now - last_log_time > LOG_EVERY_SECONDS:
            last_log_time = now
            record = {
                "step": step,
                "minutes": round((now - start) / 60, 2),
                **{k: round(float(v.detach()), 5) for k, v in losses.items()},
            }
            print(
                f"{name}: " + "  ".join(f"{k} {v}" for k, v in record.items()) + f"  of {budget.minutes:g} minutes",
                flush=True,
            )
            with (output_dir / f"{name}.jsonl").open("a") as log:
                log.write(json.dumps(record) + "\n")
        if accelerator.is_main_process and now - last_save_time > SAVE_EVERY_SECONDS:
            last_save_time = now
            save_fn(ema.module)
    if accelerator.is_main_process:
        save_fn(ema.module)
    accelerator.wait_for_everyone()


def init_from(model: M, source: nn.Module) -> M:
    """Give a new model another's weights where names and shapes agree; a vocabulary's do not."""
    target_state = model.state_dict()
    matching = {
        name: weight for name, weight in source.state_dict().items() if target_state[name].shape == weight.shape
    }
    model.load_state_dict(matching, strict=False)
    return model


def _progress(start: float, budget: TimeBudget, accelerator: Accelerator) -> float:
    """Share of the budget used, the same on every process."""
    fraction = torch.tensor((time.monotonic() - start) / (60 * budget.minutes), device=accelerator.device)
    return float(accelerator.reduce(fraction, "mean"))


def to_fp16(module: M) -> M:
    """A copy in half precision: what is shipped."""
    return copy.deepcopy(module).half()


@torch.no_grad()
def _average_weights(model: nn.Module, accelerator: Accelerator) -> None:
    """Make the weights of all processes their mean."""
    if accelerator.num_processes > 1:
        for parameter in model.parameters():
            parameter.copy_(accelerator.reduce(parameter.detach().clone(), "mean"))


@torch.no_grad()
def _moving_average(averaged: Tensors, current: Tensors, count: Tensor | int) -> None:
    """Exponential moving average that forgets the start: the decay grows to ``EMA_DECAY`` with the number of steps."""
    decay = min(EMA_DECAY, (1 + int(count)) / (10 + int(count)))
    torch._foreach_lerp_(averaged, current, 1 - decay)
