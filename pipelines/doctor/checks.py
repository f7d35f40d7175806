"""Everything that is looked at, in the order in which it is shown."""

from pipelines.doctor.check import Check
from pipelines.doctor.collectives import REMEDY as NO_RANKS
from pipelines.doctor.collectives import ranks
from pipelines.doctor.deepspeed import engine
from pipelines.doctor.devices import devices
from pipelines.doctor.disk import REMEDY as NO_DISK
from pipelines.doctor.disk import disk
from pipelines.doctor.memory import memory, shared_memory
from pipelines.doctor.packages import packages
from pipelines.doctor.schedulers import containers, kubernetes, slurm
from pipelines.doctor.services import NO_HUB, NO_TRACKER, hub, tracker

CHECKS = (
    Check(name="packages", look=packages, seconds=10, remedy="pip install -e ."),
    Check(name="device", look=devices, seconds=18, remedy="look whether nvidia-smi answers"),
    Check(name="memory", look=memory, seconds=5, remedy="look at /proc/meminfo"),
    Check(name="shared memory", look=shared_memory, seconds=5, remedy="mount a tmpfs at /dev/shm"),
    Check(name="deepspeed", look=engine, seconds=18, remedy="pip install 'deepspeed>=0.19.8'; its report: ds_report"),
    Check(name="ranks", look=ranks, seconds=18, remedy=NO_RANKS),
    Check(name="runs folder", look=disk, seconds=5, remedy=NO_DISK, alone=True),
    Check(name="mlflow", look=tracker, seconds=12, needed=False, remedy=NO_TRACKER),
    Check(name="hub", look=hub, seconds=6, needed=False, remedy=NO_HUB),
    Check(name="slurm", look=slurm, seconds=6, needed=False, remedy="only e4t submit slurm needs it"),
    Check(name="kubernetes", look=kubernetes, seconds=8, needed=False, remedy="only e4t submit k8s needs it"),
    Check(name="containers", look=containers, seconds=8, needed=False, remedy="only container images need one"),
)
