"""The training loop of all parts of the tiny base: bounded by time, logged, and saved periodically."""

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
"""Fraction of the budget during which the learning rate warms up."""
LOG_EVERY_SECONDS = 15.0
SAVE_EVERY_SECONDS = 180.0
EMA_DECAY = 0.998
AVERAGE_EVERY_STEPS = 16
"""Steps between averaging the weights over all processes: local SGD (Stich, arXiv 1805.09767), because an all-reduce of
the gradients at every step takes half of the time on a CPU."""

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
    """Train until the time budget is used up.

    Args:
        name: Name of the part; the log is written to ``<output_dir>/<name>.jsonl``.
        model: The model to train.
        batches: Endless iterator of batches.
        loss_fn: Returns named losses of a batch; the first one is minimized, the others are logged.
        save_fn: Saves the exponential moving average of the model; called periodically and at the end.
        budget: Duration, batch size and peak learning rate.
        output_dir: Folder of the log.
        accelerator: Provides the process group, precision and backward pass.
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
    """Copy weights from another model where names and shapes match (token embeddings usually do not)."""
    target_state = model.state_dict()
    matching = {
        name: weight for name, weight in source.state_dict().items() if target_state[name].shape == weight.shape
    }
    model.load_state_dict(matching, strict=False)
    return model


def _progress(start: float, budget: TimeBudget, accelerator: Accelerator) -> float:
    """Return the used fraction of the budget, averaged over processes so that all of them stop at the same step."""
    fraction = torch.tensor((time.monotonic() - start) / (60 * budget.minutes), device=accelerator.device)
    return float(accelerator.reduce(fraction, "mean"))


def to_fp16(module: M) -> M:
    """Return a copy in fp16, the precision of the released weights."""
    return copy.deepcopy(module).half()


@torch.no_grad()
def _average_weights(model: nn.Module, accelerator: Accelerator) -> None:
    """Replace the weights on all processes by their mean."""
    if accelerator.num_processes > 1:
        for parameter in model.parameters():
            parameter.copy_(accelerator.reduce(parameter.detach().clone(), "mean"))


@torch.no_grad()
def _moving_average(averaged: Tensors, current: Tensors, count: Tensor | int) -> None:
    """Update an exponential moving average whose decay grows to ``EMA_DECAY``, so that early weights are forgotten."""
    decay = min(EMA_DECAY, (1 + int(count)) / (10 + int(count)))
    torch._foreach_lerp_(averaged, current, 1 - decay)
