"""A plan as people read it."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml
from rich.console import Group
from rich.table import Table

from pipelines.planning.plan import Plan
from pipelines.runtime.device_specs import GIB


def shown(plan: Plan, overrides: list[str], changed: Plan) -> Group:
    """Memory part by part, then speed, then what would have to change: ``overrides`` lead to ``changed``."""
    where = f"{plan.devices} x {plan.device.name}" if plan.devices > 1 else plan.device.name
    lines = [*_speed(plan), *_verdict(plan, overrides, changed)]
    return Group(f"[bold]{plan.stage} on {where}[/]", _memory(plan), *lines, "")


def _memory(plan: Plan) -> Table:
    table = Table()
    table.add_column("memory of a device")
    table.add_column("GiB", justify="right")
    table.add_column("so far", justify="right")
    held = 0
    for part, size in plan.memory.items():
        held += size
        if not size:
            continue
        table.add_row(
            part, f"{size / GIB:.2f}", f"{held / GIB:.2f}", style="red" if held > plan.device.memory else None
        )
    for part, size in plan.host.items():
        table.add_row(f"{part} (in the host's memory)", f"{size / GIB:.2f}", "", style="dim")
    return table


def _speed(plan: Plan) -> list[str]:
    device, hours = plan.device, plan.hours
    time = f"{hours:,.1f} hours, {hours * plan.devices:,.1f} device-hours" if hours > 0.1 else f"{hours * 3600:.0f} s"
    source = "measured" if not device.is_gpu else "assumed, never measured"
    lines = [
        f"parameters      {plan.trained:,} trained, {plan.frozen:,} frozen",
        f"computing       {plan.operations / 1e12:.2f} teraflops a picture, at {device.efficiency:.0%} of "
        f"{device.teraflops:g} teraflops/s ({source})",
        f"speed           {plan.pictures_per_second:,.1f} pictures/s; {plan.steps:,} steps of {plan.pictures}: {time}",
    ]
    if plan.communication:
        lines.append(f"communication   {plan.communication / GIB:.2f} GiB sent by a device a step")
    return lines


def _verdict(plan: Plan, overrides: list[str], changed: Plan) -> list[str]:
    room = f"{plan.total / GIB:.1f} of {plan.device.memory / GIB:.0f} GiB"
    past = record(plan.stage, plan.device.name)
    if plan.fits:
        return [f"fits            {room}; memory: {past}"]
    lines = [f"does not fit    {room}; first: {plan.first_that_does_not_fit}; memory: {past}"]
    change = f"{' '.join(overrides)}: {changed.total / GIB:.1f} GiB"
    return [*lines, f"what to change  {change}" if changed.fits else f"not enough      {change}; take a larger device"]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A prediction of memory and what was then measured, as a benchmark gave them."""

    stage: str
    device: str
    setting: str
    predicted_gib: float
    measured_gib: float

    @property
    def error(self) -> float:
        """Relative; above 0 if less was needed than was predicted."""
        return self.predicted_gib / self.measured_gib - 1


@cache
def measurements() -> tuple[Measured, ...]:
    """All that are kept."""
    rows = yaml.safe_load(Path(__file__).with_name("measured.yaml").read_text())
    return tuple(Measured(**row) for row in rows)


def record(stage: str, device: str) -> str:
    """Former predictions of such a plan in a few words."""
    errors = [each.error for each in measurements() if (each.stage, each.device) == (stage, device)]
    if not errors:
        return "never measured on this kind of device"
    return f"{len(errors)} former predictions were off by {min(errors):+.0%} to {max(errors):+.0%}"
