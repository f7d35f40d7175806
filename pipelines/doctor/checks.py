"""All checks, in the order in which they are reported."""

from pipelines.doctor.check import Check
from pipelines.doctor.collectives import COLLECTIVES_REMEDY, check_collectives
from pipelines.doctor.deepspeed import check_deepspeed
from pipelines.doctor.devices import check_devices
from pipelines.doctor.disk import DISK_REMEDY, check_disk
from pipelines.doctor.memory import check_memory, check_shared_memory
from pipelines.doctor.packages import check_packages
from pipelines.doctor.schedulers import check_containers, check_kubernetes, check_slurm
from pipelines.doctor.services import HUB_REMEDY, MLFLOW_REMEDY, check_hub, check_mlflow

CHECKS = (
    Check(name="packages", run=check_packages, timeout_seconds=10, remedy="pip install -e ."),
    Check(name="device", run=check_devices, timeout_seconds=18, remedy="check that nvidia-smi works"),
    Check(name="memory", run=check_memory, timeout_seconds=5, remedy="check that /proc/meminfo can be read"),
    Check(name="shared memory", run=check_shared_memory, timeout_seconds=5, remedy="mount a tmpfs at /dev/shm"),
    Check(
        name="deepspeed",
        run=check_deepspeed,
        timeout_seconds=18,
        remedy="pip install 'deepspeed>=0.19.8', then run ds_report",
    ),
    Check(name="collectives", run=check_collectives, timeout_seconds=18, remedy=COLLECTIVES_REMEDY),
    Check(name="runs folder", run=check_disk, timeout_seconds=5, remedy=DISK_REMEDY, exclusive=True),
    Check(name="mlflow", run=check_mlflow, timeout_seconds=12, required=False, remedy=MLFLOW_REMEDY),
    Check(name="hub", run=check_hub, timeout_seconds=6, required=False, remedy=HUB_REMEDY),
    Check(name="slurm", run=check_slurm, timeout_seconds=6, required=False, remedy="needed only by e4t submit slurm"),
    Check(
        name="kubernetes",
        run=check_kubernetes,
        timeout_seconds=8,
        required=False,
        remedy="needed only by e4t submit k8s",
    ),
    Check(
        name="containers",
        run=check_containers,
        timeout_seconds=8,
        required=False,
        remedy="needed only to build or run container images",
    ),
)
