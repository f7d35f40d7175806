"""The schedulers that stages are sent to."""

from types import ModuleType

from pipelines.cluster import kubernetes, slurm

SCHEDULERS: dict[str, ModuleType] = {"slurm": slurm, "k8s": kubernetes}
"""Each has ``Site``, what differs from site to site; ``submission``, everything that is sent, as files; ``send``, which
runs the submission's own commands and gives ids; ``state``, how the scheduler says that a job of such an id stands."""
