"""Everything that is looked at, in the order in which it is shown."""

from pipelines.doctor.check import Check
from pipelines.doctor.collectives import COLLECTIVES_REMEDY as NO_RANKS
from pipelines.doctor.collectives import check_collectives
from pipelines.doctor.deepspeed import check_deepspeed
from pipelines.doctor.devices import check_devices
from pipelines.doctor.disk import DISK_REMEDY as NO_DISK
from pipelines.doctor.disk import check_disk
from pipelines.doctor.memory import check_memory, check_shared_memory
from pipelines.doctor.packages import check_packages
from pipelines.doctor.schedulers import check_containers, check_kubernetes, check_slurm
from pipelines.doctor.services import HUB_REMEDY, MLFLOW_REMEDY, check_hub, check_mlflow

CHECKS = (
    Check(name="packages", run=check_packages, timeout_seconds=10, remedy="pip install -e ."),
    Check(name="device", run=check_devices, timeout_seconds=18, remedy="look whether nvidia-smi answers"),
    Check(name="memory", run=check_memory, timeout_seconds=5, remedy="look at /proc/meminfo"),
    Check(name="shared memory", run=check_shared_memory, timeout_seconds=5, remedy="mount a tmpfs at /dev/shm"),
    Check(
        name="deepspeed",
        run=check_deepspeed,
        timeout_seconds=18,
        remedy="pip install 'deepspeed>=0.19.8'; its report: ds_report",
    ),
    Check(name="ranks", run=check_collectives, timeout_seconds=18, remedy=NO_RANKS),
    Check(name="runs folder", run=check_disk, timeout_seconds=5, remedy=NO_DISK, exclusive=True),
    Check(name="mlflow", run=check_mlflow, timeout_seconds=12, required=False, remedy=MLFLOW_REMEDY),
    Check(name="hub", run=check_hub, timeout_seconds=6, required=False, remedy=HUB_REMEDY),
    Check(name="slurm", run=check_slurm, timeout_seconds=6, required=False, remedy="only e4t submit slurm needs it"),
    Check(
        name="kubernetes",
        run=check_kubernetes,
        timeout_seconds=8,
        required=False,
        remedy="only e4t submit k8s needs it",
    ),
    Check(
        name="containers",
        run=check_containers,
        timeout_seconds=8,
        required=False,
        remedy="only container images need one",
    ),
)
