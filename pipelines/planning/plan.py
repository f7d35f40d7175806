"""A plan: parts of memory, speed, and what would have to change."""

from dataclasses import asdict, dataclass
from typing import Any

from pipelines.runtime.device_specs import Device


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Of one stage of a recipe on devices of a kind."""

    stage: str
    device: Device
    devices: int
    trained: int
    """Parameters."""
    frozen: int
    """Parameters."""
    memory: dict[str, int]
    """Bytes of each part that one device holds, in the order in which they come to be."""
    host: dict[str, int]
    """Bytes of each part that the host's memory holds for each device."""
    operations: int
    """Floating-point operations a picture."""
    pictures: int
    """A step, over all devices."""
    steps: int
    communication: int
    """Bytes that a device sends a step."""

    @property
    def total(self) -> int:
        """Bytes a device."""
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        """On the device."""
        return self.total <= self.device.memory

    @property
    def first_that_does_not_fit(self) -> str | None:
        """The part of memory with which a device overflows."""
        held = 0
        for part, size in self.memory.items():
            held += size
            if held > self.device.memory:
                return part
        return None

    @property
    def seconds_a_step(self) -> float:
        """Computing, then sending: what overlaps is not taken off."""
        computing = self.operations * self.pictures / self.devices / self.device.sustained
        return computing + self.communication / self.device.bandwidth

    @property
    def pictures_per_second(self) -> float:
        """Over all devices."""
        return self.pictures / self.seconds_a_step

    @property
    def hours(self) -> float:
        """To the last step."""
        return self.seconds_a_step * self.steps / 3600

    def plain(self) -> dict[str, Any]:
        """For a file."""
        derived = ("total", "fits", "first_that_does_not_fit", "seconds_a_step", "pictures_per_second", "hours")
        return asdict(self) | {name: getattr(self, name) for name in derived}
