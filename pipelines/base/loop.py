"""One loop for the three trainings: clock-bound, logged, saved as it goes."""

import json
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from pipelines.base.config import Budget

WARMUP_SHARE = 0.03
LOG_EVERY_SECONDS = 15.0
SAVE_EVERY_SECONDS = 180.0
EMA_DECAY = 0.999

B = TypeVar("B")


def train(
    name: str,
    model: nn.Module,
    batches: Iterable[B],
    loss_of: Callable[[nn.Module, B], dict[str, Tensor]],
    save: Callable[[nn.Module], None],
    budget: Budget,
    folder: Path,
    accelerator: Accelerator,
) -> None:
    """Train until the budget's minutes are over; ``save`` gets a moving average of the weights, now and then and at the end.

    ``loss_of`` returns named losses, the first of which is minimised. The log goes to ``<folder>/<name>.jsonl``.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=budget.learning_rate, weight_decay=0.01, betas=(0.9, 0.99))
    ema = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(EMA_DECAY))
    wrapped = accelerator.prepare(model)
    start = logged = saved = time.monotonic()
    for step, batch in enumerate(batches):
        progress = _progress(start, budget, accelerator)
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = budget.learning_rate * min(1.0, progress / WARMUP_SHARE, 0.5 + 0.5 * math.cos(math.pi * progress))
        losses = loss_of(wrapped, batch)
        optimizer.zero_grad()
        accelerator.backward(next(iter(losses.values())))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        ema.update_parameters(model)
        now = time.monotonic()
        if accelerator.is_main_process and now - logged > LOG_EVERY_SECONDS:
            logged = now
            line = {"step": step, "minutes": round((now - start) / 60, 2), **{k: round(float(v.detach()), 5) for k, v in losses.items()}}
            print(f"{name}: " + "  ".join(f"{k} {v}" for k, v in line.items()) + f"  of {budget.minutes:g} minutes", flush=True)
            with (folder / f"{name}.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
        if accelerator.is_main_process and now - saved > SAVE_EVERY_SECONDS:
            saved = now
            save(ema.module)
    if accelerator.is_main_process:
        save(ema.module)
    accelerator.wait_for_everyone()


def _progress(start: float, budget: Budget, accelerator: Accelerator) -> float:
    """Share of the budget used, the same on every process."""
    share = torch.tensor((time.monotonic() - start) / (60 * budget.minutes), device=accelerator.device)
    return float(accelerator.reduce(share, "mean"))
