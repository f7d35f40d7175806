"""What devices hold and compute, of their makers' data sheets."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Device:
    """A kind of device."""

    name: str
    """As it stands in the name that the device gives itself."""
    memory_bytes: int
    """Bytes that a process can have of it."""
    teraflops: float
    """Dense bfloat16 at its best; of a CPU, what a step was measured to reach."""
    efficiency: float = 0.35
    """Share of that in a step. Assumed of GPUs: none was measured."""
    bandwidth: float = 25e9
    """Bytes a second between devices. Assumed."""
    overhead_bytes: int = 2**30
    """Bytes of libraries, and of what the allocator does not give back. Assumed of GPUs, measured of the CPU."""
    is_gpu: bool = True

    @property
    def sustained_flops(self) -> float:
        """Floating-point operations a second in a step."""
        return self.teraflops * self.efficiency * 1e12


GIB = 2**30
DEVICES = (
    Device(name="H100 PCIe", memory_bytes=79 * GIB, teraflops=756.0),
    Device(name="H100", memory_bytes=79 * GIB, teraflops=989.0, bandwidth=200e9),
    Device(name="H200", memory_bytes=139 * GIB, teraflops=989.0, bandwidth=200e9),
    Device(name="A100", memory_bytes=79 * GIB, teraflops=312.0, bandwidth=100e9),
    Device(name="L40S", memory_bytes=44 * GIB, teraflops=362.0),
    Device(name="L40", memory_bytes=44 * GIB, teraflops=181.0),
    Device(name="L4", memory_bytes=22 * GIB, teraflops=121.0),
    Device(name="RTX 4090", memory_bytes=23 * GIB, teraflops=165.0),
    Device(name="RTX 3090", memory_bytes=23 * GIB, teraflops=71.0),
    Device(name="T4", memory_bytes=15 * GIB, teraflops=65.0),
    Device(
        name="cpu",
        memory_bytes=24 * GIB,
        teraflops=0.1,
        efficiency=1.0,
        bandwidth=1e9,
        overhead_bytes=800 * 2**20,
        is_gpu=False,
    ),
)


def find_device(name: str) -> Device | None:
    """The first kind whose name is in ``name``, whatever the case."""
    return next((device for device in DEVICES if device.name.lower() in name.lower()), None)
