"""Check that DeepSpeed imports, which accelerator it uses, and that an engine can take a training step."""

import os
import shutil

from pipelines.doctor.check import CheckResult, JobRequirements
from pipelines.runtime.launch import free_port, set_deepspeed_accelerator


def check_deepspeed(_: JobRequirements) -> list[CheckResult]:
    """Build a tiny single-rank ZeRO-2 engine and take one training step."""
    set_deepspeed_accelerator()
    import deepspeed
    from deepspeed.ops.op_builder.fused_adam import FusedAdamBuilder

    accelerator = deepspeed.accelerator.get_accelerator()
    _train_step(deepspeed)
    if accelerator.device_name() != "cuda":
        optimizer_text = "the optimizer is PyTorch's AdamW, no kernel is compiled"
    else:
        is_compatible = FusedAdamBuilder().is_compatible(verbose=False)
        optimizer_text = (
            f"DeepSpeed's fused Adam {'can' if is_compatible else 'cannot'} be compiled, PyTorch's AdamW is used"
        )
    detail = (
        f"a ZeRO-2 engine takes a step on {accelerator.device_name()} with {accelerator.communication_backend_name()}; "
        f"{optimizer_text}"
    )
    return [CheckResult(name="deepspeed", status="ok", detail=detail), _check_compiler()]


def _train_step(deepspeed) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001 - a module
    import torch

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = (
        False  # as in training: gloo does not need compiled kernels
    )
    environment = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    os.environ.update(environment)
    model = torch.nn.Linear(8, 8)
    config = {
        "train_batch_size": 1,
        "zero_optimization": {"stage": 2},
        "bf16": {"enabled": True},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    deepspeed.init_distributed("nccl" if torch.cuda.is_available() else "gloo")
    engine, *_ = deepspeed.initialize(model=model, optimizer=torch.optim.AdamW(model.parameters()), config=config)
    engine.backward(engine(torch.ones(1, 8, device=engine.device, dtype=torch.bfloat16)).sum())
    engine.step()


def _check_compiler() -> CheckResult:
    compiler_path = next(
        (path for name in (os.environ.get("CXX"), "c++", "g++", "clang++") if name and (path := shutil.which(name))),
        None,
    )
    if compiler_path:
        return CheckResult(name="compiler", status="ok", detail=compiler_path)
    remedy = "needed only by pretrain.compile and DeepSpeed's own kernels: apt-get install g++"
    return CheckResult(name="compiler", status="warn", detail="no C++ compiler", remedy=remedy)
