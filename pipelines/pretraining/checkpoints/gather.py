"""The training state out of an engine's shards and back, whatever its ZeRO stage and number of ranks."""

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
from pipelines.pretraining.optimizer import GuardedAdamW


def collect(engine: DeepSpeedEngine, optimizer: GuardedAdamW, *, keep: bool) -> TrainingState | None:
    """Gather the state from all ranks, each of which must call; those that do not ``keep`` it get None."""
    shards = _shards(engine, optimizer)
    weights: Tensors = {}
    moments: dict[str, Tensors] = {key: {} for key in optimizer.state_keys}
    for name, parameter in engine.module.named_parameters():
        for key, tensors in ((None, weights), *moments.items()):
            whole = shards.get(parameter, key)
            if keep:
                tensors[name] = whole.detach().to("cpu", torch.float32, copy=True)
    if not keep:
        return None
    scale = float(engine.optimizer.loss_scale) if engine.fp16_enabled() else 0.0
    return TrainingState(weights, moments, int(next(iter(optimizer.state.values()))["step"]), scale)


def restore(engine: DeepSpeedEngine, optimizer: GuardedAdamW, state: TrainingState) -> None:
    """Give an engine, which must have made a step, this state; every rank must call, with the same one."""
    shards = _shards(engine, optimizer)
    for name, parameter in engine.module.named_parameters():
        shards.set(parameter, state.weights[name], None)
        for key in optimizer.state_keys:  # an average that has not been kept so far begins at the weights
            shards.set(parameter, state.moments.get(key, state.weights)[name], key)
    for parameter_state in optimizer.state.values():
        parameter_state["step"].fill_(state.updates)
    shards.publish()
    if engine.fp16_enabled() and state.loss_scale:
        engine.optimizer.loss_scale = state.loss_scale


def _shards(engine: DeepSpeedEngine, optimizer: GuardedAdamW) -> "_Whole | _Partitioned":
    stage = engine.zero_optimization_stage()
    if stage == 0:
        return _Whole(engine, optimizer)
    return _Sharded(engine) if stage == 3 else _Partitioned(engine)


class _Whole:
    """Stage 0: every rank holds everything, in fp32 beside the low-precision weights if there are such."""

    def __init__(self, engine: DeepSpeedEngine, optimizer: GuardedAdamW) -> None:
        self.optimizer = optimizer
        trained = [p for group in engine.optimizer.param_groups for p in group["params"]]
        low = getattr(engine.optimizer, "fp16_groups", None)
        self.low = trained if low is None else [p for group in low for p in group]
        self.masters = {id(low): master for low, master in zip(self.low, trained, strict=True)}

    def _find(self, parameter: nn.Parameter, key: str | None) -> Tensor:
        master = self.masters[id(parameter)]
        found: Tensor = master if key is None else self.optimizer.state[master][key]
        return found

    def get(self, parameter: nn.Parameter, key: str | None) -> Tensor:
        return self._find(parameter, key)

    def set(self, parameter: nn.Parameter, value: Tensor, key: str | None) -> None:
        self._find(parameter, key).data.copy_(value)

    def publish(self) -> None:
        for low in self.low:
            low.data.copy_(self.masters[id(low)].data)


class _Partitioned:
    """Stages 1 and 2: optimizer state and fp32 weights in equal parts."""

    def __init__(self, engine: DeepSpeedEngine) -> None:
        self.engine = engine

    def get(self, parameter: nn.Parameter, key: str | None) -> Tensor:
        whole: Tensor = (
            safe_get_full_fp32_param(parameter) if key is None else safe_get_full_optimizer_state(parameter, key)
        )
        return whole

    def set(self, parameter: nn.Parameter, value: Tensor, key: str | None) -> None:
        if key is None:
            safe_set_full_fp32_param(parameter, value)
        else:
            safe_set_full_optimizer_state(parameter, value, key)

    def publish(self) -> None:
        self.engine.optimizer.update_lp_params()


class _Sharded(_Partitioned):
    """Stage 3: the weights themselves in parts, each padded at its end."""

    def set(self, parameter: nn.Parameter, value: Tensor, key: str | None) -> None:
        size, rank = parameter.ds_tensor.numel(), torch.distributed.get_rank()  # type: ignore[attr-defined]
        padded = torch.zeros(size * torch.distributed.get_world_size())
        padded[: value.numel()] = value.flatten()
        mine = padded[rank * size : (rank + 1) * size]
        if key is not None:
            safe_set_local_optimizer_state(parameter, mine, key)
            return
        safe_set_local_fp32_param(parameter, mine)
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            if rank == 0:
                parameter.data.copy_(value)

    def publish(self) -> None:
        """Each was, as it was set."""
