"""Build an engine of every ZeRO stage in turn in each rank, and report what becomes of its training state."""

from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate.state import AcceleratorState
from deepspeed import DeepSpeedEngine
from torch import Tensor, nn

from data_prep.config import PrepareConfig
from encoder.config import BackboneConfig, ConditioningConfig
from pipelines.config.pretraining import PretrainConfig
from pipelines.config.recipe import Recipe
from pipelines.pretraining.checkpoints.gather import gather_state, restore_state
from pipelines.pretraining.checkpoints.state import TrainingState
from pipelines.pretraining.deepspeed_engine import build_engine, init_distributed
from pipelines.pretraining.optimizer import SkipStepAdamW
from pipelines.runtime.process_group import ProcessGroup

BATCH, WIDTH = 6, 7
"""The batch can be split over 1, 2 and 3 ranks; no weight can be split evenly."""


class Model(nn.Module):
    """A model with two parameter groups, like the domain model."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.offsets = nn.Linear(WIDTH, 17), nn.Linear(17, 3)

    def forward(self, rows: Tensor) -> Tensor:
        return self.offsets(self.encoder(rows).tanh())


def configurations() -> Iterator[PretrainConfig]:
    for precision in ("fp32", "bf16"):
        for stage, offload in ((0, False), (1, False), (2, False), (3, False), (1, True), (2, True), (3, True)):
            yield PretrainConfig(
                global_batch_size=BATCH, micro_batch_size=BATCH, learning_rate=1e-2, ema_decay=0.9,
                zero_stage=stage, offload_optimizer=offload, precision=precision,
            )  # fmt: skip


def init_process_group(config: PretrainConfig) -> ProcessGroup:
    AcceleratorState._reset_state(False)
    return init_distributed(
        Recipe(
            name="every stage",
            base=BackboneConfig(model="none"),
            data=PrepareConfig(source="none", output="none", domain="none"),
            conditioning=ConditioningConfig(domain_word="none"),
            pretrain=config,
        )
    )


def train(engine: DeepSpeedEngine, process_group: ProcessGroup, steps: range, *, non_finite: bool = False) -> None:
    local_batch = BATCH // process_group.world_size
    for step in steps:
        rows = torch.randn(BATCH, WIDTH, generator=torch.Generator().manual_seed(step))
        rows = rows[process_group.rank * local_batch :][:local_batch].to(engine.get_data_types()[0])
        if non_finite and process_group.rank == process_group.world_size - 1:
            rows = rows * torch.nan
        engine.backward(engine(rows).float().pow(2).mean())
        engine.step()


def same(one: TrainingState, other: TrainingState) -> bool:
    tensors = [(one.weights, other.weights), *((one.moments[key], other.moments[key]) for key in one.moments)]
    return one.optimizer_steps == other.optimizer_steps and all(
        torch.equal(a[name], b[name]) for a, b in tensors for name in a
    )


def distance(one: TrainingState, other: TrainingState) -> float:
    """Return the largest difference of a weight, in multiples of the learning rate."""
    return max(float((one.weights[name] - other.weights[name]).abs().max()) for name in one.weights) / 1e-2


def start_engine(config: PretrainConfig) -> tuple[DeepSpeedEngine, SkipStepAdamW, ProcessGroup, TrainingState]:
    process_group = init_process_group(config)
    torch.manual_seed(0)
    model = Model()
    start = TrainingState.from_model(model)
    engine, optimizer = build_engine(model, config, process_group)
    train(engine, process_group, range(99, 100))
    restore_state(engine, optimizer, start)
    return engine, optimizer, process_group, start


def report(config: PretrainConfig, reference: Path) -> dict[str, object]:
    engine, optimizer, process_group, start = start_engine(config)
    initial = gather_state(engine, optimizer, keep=True)
    train(engine, process_group, range(3))
    middle = gather_state(engine, optimizer, keep=True)
    steps_before = optimizer.steps_taken
    train(engine, process_group, range(3, 4), non_finite=True)
    skipped = bool(optimizer.steps_taken == steps_before)
    after_skip = gather_state(engine, optimizer, keep=True)
    train(engine, process_group, range(3, 5))
    end = gather_state(engine, optimizer, keep=True)
    engine, optimizer, process_group, _ = start_engine(config)
    restore_state(engine, optimizer, middle)
    train(engine, process_group, range(3, 5))
    resumed = gather_state(engine, optimizer, keep=True)
    if not reference.with_suffix(f".{config.precision}").exists():
        torch.save((middle, end), reference.with_suffix(f".{config.precision}"))
    middle_of_one, end_of_one = torch.load(reference.with_suffix(f".{config.precision}"), weights_only=False)
    restore_state(engine, optimizer, middle_of_one)
    train(engine, process_group, range(3, 5))
    continued = gather_state(engine, optimizer, keep=True)
    return {
        "engine": type(engine).__name__,
        "world": engine.world_size,
        "stage": engine.zero_optimization_stage(),
        "offload": bool(engine.zero_cpu_offload()),
        "precision": str(engine.get_data_types()[0]),
        "initial state is exact": all(
            torch.equal(start.weights[name], initial.weights[name]) for name in start.weights
        ),
        "a skipped step changes nothing": skipped and same(middle, after_skip),
        "resuming is exact": same(end, resumed),
        "optimizer steps": end.optimizer_steps,
        "from one process's state": distance(continued, end_of_one),
        "from the start": distance(end, end_of_one),
        "gradient": max(
            float((middle.moments["exp_avg"][n] - middle_of_one.moments["exp_avg"][n]).abs().max())
            / float(middle_of_one.moments["exp_avg"][n].abs().max())
            for n in middle.weights
        ),
    }


def report_every_stage(reference: Path) -> list[dict[str, object]]:
    """Return a report for each configuration; ``reference`` is the path prefix of the single-process states."""
    return [report(config, reference) for config in configurations()]
