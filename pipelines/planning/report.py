"""Print a plan: memory table, speed, verdict, and how accurate earlier predictions were."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml
from rich.console import Group
from rich.table import Table

from pipelines.planning.plan import Plan
from pipelines.runtime.device_specs import GIB


def format_plan(plan: Plan, overrides: list[str], revised: Plan) -> Group:
    """Format memory by part, speed and verdict; ``revised`` is the plan with ``overrides`` applied."""
    devices_text = f"{plan.num_devices} x {plan.device.name}" if plan.num_devices > 1 else plan.device.name
    lines = [*_speed_lines(plan), *_verdict_lines(plan, overrides, revised)]
    return Group(f"[bold]{plan.stage} on {devices_text}[/]", _memory_table(plan), *lines, "")


def _memory_table(plan: Plan) -> Table:
    table = Table()
    table.add_column("device memory")
    table.add_column("GiB", justify="right")
    table.add_column("total", justify="right")
    cumulative_bytes = 0
    for part, size in plan.device_memory.items():
        cumulative_bytes += size
        if not size:
            continue
        table.add_row(
            part,
            f"{size / GIB:.2f}",
            f"{cumulative_bytes / GIB:.2f}",
            style="red" if cumulative_bytes > plan.device.memory_bytes else None,
        )
    for part, size in plan.host_memory.items():
        table.add_row(f"{part} (host memory)", f"{size / GIB:.2f}", "", style="dim")
    return table


def _speed_lines(plan: Plan) -> list[str]:
    device, hours = plan.device, plan.hours
    long = f"{hours:,.1f} hours, {hours * plan.num_devices:,.1f} device-hours"
    time = long if hours > 0.1 else f"{hours * 3600:.0f} s"
    source = "assumed, never measured" if device.is_gpu else "measured"
    lines = [
        f"parameters      {plan.num_trainable:,} trainable, {plan.num_frozen:,} frozen",
        f"compute         {plan.flops_per_image / 1e12:.2f} TFLOP per image at {device.efficiency:.0%} of "
        f"{device.teraflops:g} TFLOP/s ({source})",
        f"speed           {plan.images_per_second:,.1f} images/s; "
        f"{plan.max_steps:,} steps of {plan.global_batch_size} images: {time}",
    ]
    if plan.comm_bytes:
        lines.append(f"communication   {plan.comm_bytes / GIB:.2f} GiB sent per device and step")
    return lines


def _verdict_lines(plan: Plan, overrides: list[str], revised: Plan) -> list[str]:
    usage = f"{plan.total_bytes / GIB:.1f} of {plan.device.memory_bytes / GIB:.0f} GiB"
    calibration = calibration_summary(plan.stage, plan.device.name)
    if plan.fits:
        return [f"fits            {usage} ({calibration})"]
    lines = [f"does not fit    {usage}; exceeded by: {plan.first_overflow} ({calibration})"]
    suggestion = f"{' '.join(overrides)}: {revised.total_bytes / GIB:.1f} GiB"
    return [
        *lines,
        f"suggestion      {suggestion}" if revised.fits else f"not enough      {suggestion}; use a larger device",
    ]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Peak memory as predicted by a plan and as measured by a benchmark."""

    stage: str
    device: str
    setting: str
    predicted_gib: float
    measured_gib: float

    @property
    def relative_error(self) -> float:
        """Relative error of the prediction; positive if less memory was needed than predicted."""
        return self.predicted_gib / self.measured_gib - 1


@cache
def load_calibrations() -> tuple[Calibration, ...]:
    """Load all recorded measurements."""
    rows = yaml.safe_load(Path(__file__).with_name("calibration.yaml").read_text())
    return tuple(Calibration(**row) for row in rows)


def calibration_summary(stage: str, device: str) -> str:
    """Summarize how accurate earlier predictions for this stage and device were."""
    errors = [each.relative_error for each in load_calibrations() if (each.stage, each.device) == (stage, device)]
    if not errors:
        return "memory never measured on this device"
    return f"{len(errors)} earlier predictions were off by {min(errors):+.0%} to {max(errors):+.0%}"
