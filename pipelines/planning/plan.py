"""A plan: parts of memory, speed, and what would have to change."""

from dataclasses import asdict, dataclass
from typing import Any

from pipelines.runtime.device_specs import Device


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Of one stage of a recipe on devices of a kind."""

    stage: str
    device: Device
    num_devices: int
    num_trainable: int
    """Parameters."""
    num_frozen: int
    """Parameters."""
    device_memory: dict[str, int]
    """Bytes of each part that one device holds, in the order in which they come to be."""
    host_memory: dict[str, int]
    """Bytes of each part that the host's memory holds for each device."""
    flops_per_image: int
    """Floating-point operations a picture."""
    global_batch_size: int
    """A step, over all devices."""
    max_steps: int
    comm_bytes: int
    """Bytes that a device sends a step."""

    @property
    def total_bytes(self) -> int:
        """Bytes a device."""
        return sum(self.device_memory.values())

    @property
    def fits(self) -> bool:
        """On the device."""
        return self.total_bytes <= self.device.memory_bytes

    @property
    def first_overflow(self) -> str | None:
        """The part of memory with which a device overflows."""
        cumulative_bytes = 0
        for part, size in self.device_memory.items():
            cumulative_bytes += size
            if cumulative_bytes > self.device.memory_bytes:
                return part
        return None

    @property
    def seconds_per_step(self) -> float:
        """Computing, then sending: what overlaps is not taken off."""
        compute_seconds = self.flops_per_image * self.global_batch_size / self.num_devices / self.device.sustained_flops
        return compute_seconds + self.comm_bytes / self.device.bandwidth

    @property
    def images_per_second(self) -> float:
        """Over all devices."""
        return self.global_batch_size / self.seconds_per_step

    @property
    def hours(self) -> float:
        """To the last step."""
        return self.seconds_per_step * self.max_steps / 3600

    def to_dict(self) -> dict[str, Any]:
        """For a file."""
        derived = ("total_bytes", "fits", "first_overflow", "seconds_per_step", "images_per_second", "hours")
        return asdict(self) | {name: getattr(self, name) for name in derived}
