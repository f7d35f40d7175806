"""The plan of a stage: memory by part, speed, and whether it fits the device."""

from dataclasses import asdict, dataclass
from typing import Any

from pipelines.runtime.device_specs import Device


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Estimated memory and speed of one stage of a recipe on ``num_devices`` devices of one kind."""

    stage: str
    """``pre-training`` or ``tuning``."""
    device: Device
    num_devices: int
    num_trainable: int
    """Number of trainable parameters."""
    num_frozen: int
    """Number of frozen parameters."""
    device_memory: dict[str, int]
    """Bytes of each part that one device holds, in the order of allocation."""
    host_memory: dict[str, int]
    """Bytes of each part that the host holds for each device."""
    flops_per_image: int
    """Floating-point operations for one image, forward and backward."""
    global_batch_size: int
    """Images per optimizer step, over all devices."""
    max_steps: int
    comm_bytes: int
    """Bytes that one device sends per step."""

    @property
    def total_bytes(self) -> int:
        """Sum of ``device_memory`` in bytes."""
        return sum(self.device_memory.values())

    @property
    def fits(self) -> bool:
        """Whether the total fits into the memory of the device."""
        return self.total_bytes <= self.device.memory_bytes

    @property
    def first_overflow(self) -> str | None:
        """Name of the first part that exceeds the memory of the device; None if everything fits."""
        cumulative_bytes = 0
        for part, size in self.device_memory.items():
            cumulative_bytes += size
            if cumulative_bytes > self.device.memory_bytes:
                return part
        return None

    @property
    def seconds_per_step(self) -> float:
        """Seconds of an optimizer step: compute plus communication, without the overlap of the two."""
        compute_seconds = self.flops_per_image * self.global_batch_size / self.num_devices / self.device.sustained_flops
        return compute_seconds + self.comm_bytes / self.device.bandwidth

    @property
    def images_per_second(self) -> float:
        """Throughput over all devices."""
        return self.global_batch_size / self.seconds_per_step

    @property
    def hours(self) -> float:
        """Hours from the first to the last step."""
        return self.seconds_per_step * self.max_steps / 3600

    def to_dict(self) -> dict[str, Any]:
        """Return all fields and derived values as plain data for JSON."""
        return asdict(self) | {
            "total_bytes": self.total_bytes,
            "fits": self.fits,
            "first_overflow": self.first_overflow,
            "seconds_per_step": self.seconds_per_step,
            "images_per_second": self.images_per_second,
            "hours": self.hours,
        }
