"""Start ranks as training does, all-reduce a tensor, and measure bandwidth and latency."""

import json
import os
import subprocess
import sys
import time

from pipelines.doctor.check import CheckResult, JobRequirements
from pipelines.runtime.launch import free_port
from pipelines.tracking.client import first_line

NUM_ELEMENTS = 2**22
"""Number of float32 elements in the tensor that is all-reduced (16 MiB)."""
ROUNDS, SMALL_ROUNDS = 5, 50
COLLECTIVES_REMEDY = (
    "set GLOO_SOCKET_IFNAME (GPUs: NCCL_SOCKET_IFNAME) to an interface of `ip -br address`; NCCL_DEBUG=INFO prints more"
)


def check_collectives(requirements: JobRequirements) -> list[CheckResult]:
    """Run an all-reduce on as many ranks as would train here (at least two): NCCL if each rank has a GPU, else gloo."""
    world_size = max(requirements.nproc, 2)
    rendezvous = {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    environment = os.environ | rendezvous | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pipelines.doctor.collectives"]
    processes = [
        subprocess.Popen(  # noqa: S603 - our own command
            command,
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(world_size)
    ]  # fmt: skip
    exit_codes: list[int | None] = [None]
    while None in exit_codes and not any(exit_codes):
        time.sleep(0.02)
        exit_codes = [process.poll() for process in processes]
    for process in processes:  # ranks whose peer has failed would wait for it until their timeout
        process.kill()
    outputs = [process.communicate() for process in processes]
    if error_output := next((err for (_, err), code in zip(outputs, exit_codes, strict=True) if code), None):
        reason = (error_output.strip().splitlines() or ["no error message"])[-1]
        return [
            CheckResult(
                name="collectives",
                status="fail",
                detail=f"{world_size} ranks cannot communicate: {reason}",
                remedy=COLLECTIVES_REMEDY,
            )
        ]
    measured = json.loads(outputs[0][0].splitlines()[-1])
    detail = (
        f"{world_size} ranks over {measured['backend']}: {measured['bandwidth'] / 1e9:.2f} GB/s per rank in an "
        f"all-reduce of {4 * NUM_ELEMENTS / 2**20:.0f} MiB, {measured['latency'] * 1e6:.0f} us for one element"
    )
    return [CheckResult(name="collectives", status="ok", detail=detail)]


def _rank_main() -> None:
    """Run one rank of the benchmark. Rank 0 prints the result as JSON."""
    import torch
    from torch import distributed as dist

    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    on_gpus = torch.cuda.device_count() >= world_size
    backend = "nccl" if on_gpus else "gloo"
    device = torch.device("cuda", rank) if on_gpus else torch.device("cpu")
    dist.init_process_group(backend, device_id=device if on_gpus else None)
    large, small = torch.ones(NUM_ELEMENTS, device=device), torch.ones(1, device=device)
    dist.all_reduce(large)
    if float(large[0]) != world_size:
        raise SystemExit(f"the sum of {world_size} ones is {float(large[0])}")
    seconds = _mean_all_reduce_seconds(large, ROUNDS)
    latency = _mean_all_reduce_seconds(small, SMALL_ROUNDS)
    bandwidth = 2 * (world_size - 1) / world_size * 4 * NUM_ELEMENTS / seconds
    if rank == 0:
        print(json.dumps({"backend": backend, "bandwidth": bandwidth, "latency": latency}))
    dist.destroy_process_group()


def _mean_all_reduce_seconds(tensor, rounds: int) -> float:  # type: ignore[no-untyped-def]  # noqa: ANN001 - torch is imported lazily
    """Return the mean duration of an all-reduce in seconds."""
    from torch import distributed as dist

    dist.barrier()
    start = time.perf_counter()
    for _ in range(rounds):
        dist.all_reduce(tensor)
    tensor.sum().item()  # waits until the GPU has finished
    return (time.perf_counter() - start) / rounds


if __name__ == "__main__":
    try:
        _rank_main()
    except Exception as error:
        sys.exit(first_line(error))
