"""Gather the full training state from the shards of a DeepSpeed engine of any ZeRO stage, and restore it."""

import deepspeed
import torch
from deepspeed import DeepSpeedEngine
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)
from torch import Tensor, nn

from pipelines.pretraining.checkpoints.state import Tensors, TrainingState
from pipelines.pretraining.optimizer import SkipStepAdamW


def gather_state(engine: DeepSpeedEngine, optimizer: SkipStepAdamW, *, keep: bool) -> TrainingState | None:
    """Gather the state from all ranks, each of which must call this; those without ``keep`` get None."""
    accessor = _state_accessor(engine, optimizer)
    weights: Tensors = {}
    moments: dict[str, Tensors] = {key: {} for key in optimizer.state_keys}
    for name, parameter in engine.module.named_parameters():
        for key, tensors in ((None, weights), *moments.items()):
            full = accessor.get(parameter, key)
            if keep:
                tensors[name] = full.detach().to("cpu", torch.float32, copy=True)
    if not keep:
        return None
    scale = float(engine.optimizer.loss_scale) if engine.fp16_enabled() else 0.0
    return TrainingState(weights, moments, int(next(iter(optimizer.state.values()))["step"]), scale)


def restore_state(engine: DeepSpeedEngine, optimizer: SkipStepAdamW, state: TrainingState) -> None:
    """Load a state into an engine that has taken at least one step. Every rank must call this with the same state.

    A moving average that the state lacks starts at the weights.
    """
    accessor = _state_accessor(engine, optimizer)
    for name, parameter in engine.module.named_parameters():
        accessor.set(parameter, state.weights[name], None)
        for key in optimizer.state_keys:
            accessor.set(parameter, state.moments.get(key, state.weights)[name], key)
    for parameter_state in optimizer.state.values():
        parameter_state["step"].fill_(state.optimizer_steps)
    accessor.sync_model_params()
    if engine.fp16_enabled() and state.loss_scale:
        engine.optimizer.loss_scale = state.loss_scale


def _state_accessor(engine: DeepSpeedEngine, optimizer: SkipStepAdamW) -> "Zero0State | Zero12State":
    stage = engine.zero_optimization_stage()
    if stage == 0:
        return Zero0State(engine, optimizer)
    return Zero3State(engine) if stage == 3 else Zero12State(engine)


class Zero0State:
    """Access to the state with ZeRO stage 0: every rank holds all of it.

    With bf16 or fp16, DeepSpeed keeps fp32 master weights beside the low-precision ones.
    """

    def __init__(self, engine: DeepSpeedEngine, optimizer: SkipStepAdamW) -> None:
        self.optimizer = optimizer
        trained = [p for group in engine.optimizer.param_groups for p in group["params"]]
        low = getattr(engine.optimizer, "fp16_groups", None)
        self.low_precision = trained if low is None else [p for group in low for p in group]
        self.fp32_masters = {id(low): master for low, master in zip(self.low_precision, trained, strict=True)}

    def _find(self, parameter: nn.Parameter, key: str | None) -> Tensor:
        master = self.fp32_masters[id(parameter)]
        tensor: Tensor = master if key is None else self.optimizer.state[master][key]
        return tensor

    def get(self, parameter: nn.Parameter, key: str | None) -> Tensor:
        """Return the full fp32 weight, or the full optimizer state tensor ``key``, of a parameter."""
        return self._find(parameter, key)

    def set(self, parameter: nn.Parameter, value: Tensor, key: str | None) -> None:
        """Overwrite the fp32 weight, or the optimizer state tensor ``key``, of a parameter with a full tensor."""
        self._find(parameter, key).data.copy_(value)

    def sync_model_params(self) -> None:
        """Copy the fp32 weights to the low-precision weights that the model computes with."""
        for low in self.low_precision:
            low.data.copy_(self.fp32_masters[id(low)].data)


class Zero12State:
    """Access to the state with ZeRO stages 1 and 2: optimizer state and fp32 weights are sharded over the ranks."""

    def __init__(self, engine: DeepSpeedEngine) -> None:
        self.engine = engine

    def get(self, parameter: nn.Parameter, key: str | None) -> Tensor:
        """Return the full fp32 weight, or the full optimizer state tensor ``key``, of a parameter."""
        full: Tensor = (
            safe_get_full_fp32_param(parameter) if key is None else safe_get_full_optimizer_state(parameter, key)
        )
        return full

    def set(self, parameter: nn.Parameter, value: Tensor, key: str | None) -> None:
        """Overwrite the fp32 weight, or the optimizer state tensor ``key``, of a parameter with a full tensor."""
        if key is None:
            safe_set_full_fp32_param(parameter, value)
        else:
            safe_set_full_optimizer_state(parameter, value, key)

    def sync_model_params(self) -> None:
        """Copy the fp32 weights to the low-precision weights that the model computes with."""
        self.engine.optimizer.update_lp_params()


class Zero3State(Zero12State):
    """Access to the state with ZeRO stage 3: the model weights are sharded as well, each padded to equal shards."""

    def set(self, parameter: nn.Parameter, value: Tensor, key: str | None) -> None:
        """Overwrite the fp32 weight, or the optimizer state tensor ``key``, of a parameter with a full tensor."""
        size, rank = parameter.ds_tensor.numel(), torch.distributed.get_rank()  # type: ignore[attr-defined]
        padded = torch.zeros(size * torch.distributed.get_world_size())
        padded[: value.numel()] = value.flatten()
        local_shard = padded[rank * size : (rank + 1) * size]
        if key is not None:
            safe_set_local_optimizer_state(parameter, local_shard, key)
            return
        safe_set_local_fp32_param(parameter, local_shard)
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            if rank == 0:
                parameter.data.copy_(value)

    def sync_model_params(self) -> None:
        """Do nothing: ``set`` has already written the weights that the model computes with."""
