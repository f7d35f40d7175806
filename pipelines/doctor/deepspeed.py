"""DeepSpeed: whether it imports, what it computes on, and whether an engine steps."""

import os
import shutil

from pipelines.doctor.check import Finding, Needs
from pipelines.runtime.launch import free_port, on_this_device


def engine(_: Needs) -> list[Finding]:
    """Build a tiny ZeRO-2 engine, of one rank, and take a step with it."""
    on_this_device()
    import deepspeed
    from deepspeed.ops.op_builder.fused_adam import FusedAdamBuilder

    chosen = deepspeed.accelerator.get_accelerator()
    _step(deepspeed)
    if chosen.device_name() != "cuda":
        fused = "PyTorch's AdamW, nothing is compiled"
    else:
        fits = FusedAdamBuilder().is_compatible(verbose=False)
        fused = f"its fused Adam would {'compile' if fits else 'not compile'}, PyTorch's is used"
    found = f"a ZeRO-2 engine steps on {chosen.device_name()} over {chosen.communication_backend_name()}; {fused}"
    return [Finding(what="deepspeed", state="ok", found=found), _compiler()]


def _step(deepspeed) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001 - a module
    import torch

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # as in training: gloo needs no compiler
    here = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    os.environ.update(here)
    model = torch.nn.Linear(8, 8)
    config = {
        "train_batch_size": 1,
        "zero_optimization": {"stage": 2},
        "bf16": {"enabled": True},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    deepspeed.init_distributed("nccl" if torch.cuda.is_available() else "gloo")
    made, *_ = deepspeed.initialize(model=model, optimizer=torch.optim.AdamW(model.parameters()), config=config)
    made.backward(made(torch.ones(1, 8, device=made.device, dtype=torch.bfloat16)).sum())
    made.step()


def _compiler() -> Finding:
    found = next(
        (path for name in (os.environ.get("CXX"), "c++", "g++", "clang++") if name and (path := shutil.which(name))),
        None,
    )
    if found:
        return Finding(what="compiler", state="ok", found=found)
    remedy = "only pretrain.compile and DeepSpeed's own kernels need one: apt-get install g++"
    return Finding(what="compiler", state="note", found="no C++ compiler", remedy=remedy)
