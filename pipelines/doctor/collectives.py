"""Ranks that talk: processes meet as in training, sum a tensor, and say how fast."""

import json
import os
import subprocess
import sys
import time

from pipelines.doctor.check import Finding, Needs
from pipelines.runtime.launch import free_port
from pipelines.tracking.client import first_line

NUMBERS = 2**22
"""Of float32 in the tensor that is summed: 16 MiB."""
ROUNDS, SMALL_ROUNDS = 5, 50
REMEDY = (
    "set GLOO_SOCKET_IFNAME (GPUs: NCCL_SOCKET_IFNAME) to an interface of `ip -br address`; NCCL_DEBUG=INFO says more"
)


def ranks(needs: Needs) -> list[Finding]:
    """As many ranks as would train here, at least two: over NCCL if each has a GPU, else over gloo."""
    world = max(needs.nproc, 2)
    meeting = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    environment = os.environ | meeting | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pipelines.doctor.collectives"]
    started = [
        subprocess.Popen(  # noqa: S603 - our own command
            command,
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(world)
    ]  # fmt: skip
    codes: list[int | None] = [None]
    while None in codes and not any(codes):
        time.sleep(0.02)
        codes = [process.poll() for process in started]
    for process in started:  # those whose peer has failed would wait for it
        process.kill()
    said = [process.communicate() for process in started]
    if failed := next((err for (_, err), code in zip(said, codes, strict=True) if code), None):
        reason = (failed.strip().splitlines() or ["no word"])[-1]
        return [Finding(what="ranks", state="broken", found=f"{world} ranks do not meet: {reason}", remedy=REMEDY)]
    speed = json.loads(said[0][0].splitlines()[-1])
    found = (
        f"{world} over {speed['backend']}: {speed['bandwidth'] / 1e9:.2f} GB/s of each in an all-reduce of "
        f"{4 * NUMBERS / 2**20:.0f} MiB, {speed['latency'] * 1e6:.0f} us for one number"
    )
    return [Finding(what="ranks", state="ok", found=found)]


def _rank() -> None:
    """A rank: rank 0 says how fast it was."""
    import torch
    from torch import distributed as dist

    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    on_gpus = torch.cuda.device_count() >= world
    backend = "nccl" if on_gpus else "gloo"
    device = torch.device("cuda", rank) if on_gpus else torch.device("cpu")
    dist.init_process_group(backend, device_id=device if on_gpus else None)
    large, small = torch.ones(NUMBERS, device=device), torch.ones(1, device=device)
    dist.all_reduce(large)
    if float(large[0]) != world:
        raise SystemExit(f"the sum of {world} ones is {float(large[0])}")
    seconds = _seconds_of(large, ROUNDS)
    latency = _seconds_of(small, SMALL_ROUNDS)
    bandwidth = 2 * (world - 1) / world * 4 * NUMBERS / seconds
    if rank == 0:
        print(json.dumps({"backend": backend, "bandwidth": bandwidth, "latency": latency}))
    dist.destroy_process_group()


def _seconds_of(tensor, rounds: int) -> float:  # type: ignore[no-untyped-def]  # noqa: ANN001 - torch is not yet here
    """Of an all-reduce, the mean."""
    from torch import distributed as dist

    dist.barrier()
    start = time.perf_counter()
    for _ in range(rounds):
        dist.all_reduce(tensor)
    tensor.sum().item()  # waits for a GPU
    return (time.perf_counter() - start) / rounds


if __name__ == "__main__":
    try:
        _rank()
    except Exception as error:
        sys.exit(first_line(error))
