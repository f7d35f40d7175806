"""Memory and peak throughput of known devices, from the vendors' data sheets."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Device:
    """Specification of a device model."""

    name: str
    """Part of the name that the device reports, such as ``H100 PCIe``."""
    memory_bytes: int
    """Memory in bytes that a process can use."""
    teraflops: float
    """Peak dense bfloat16 throughput; for the CPU, the throughput measured in a training step."""
    efficiency: float = 0.35
    """Fraction of the peak that a training step reaches. An assumption for GPUs: none was measured."""
    bandwidth: float = 25e9
    """Bytes per second between devices. An assumption."""
    overhead_bytes: int = 2**30
    """Memory in bytes of libraries and allocator fragmentation. An assumption for GPUs, measured on the CPU."""
    is_gpu: bool = True
    """Whether the device is a GPU; False only for the CPU."""

    @property
    def sustained_flops(self) -> float:
        """Floating-point operations per second in a training step."""
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
    """Return the first device whose name is part of ``name``, ignoring case, or None."""
    return next((device for device in DEVICES if device.name.lower() in name.lower()), None)
