"""Profile a few training steps with ``torch.profiler``."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.profiler import ProfilerActivity, profile, schedule, supported_activities

WAIT, WARM_UP, STEPS = 1, 1, 3
"""Steps that are left out, then steps that warm the profiler up, then steps that are recorded."""


@contextmanager
def profile_steps(path: Path) -> Iterator["profile"]:
    """Write a Chrome trace of a few steps to ``path``; call ``step()`` on the yielded profiler after each step.

    Perfetto and chrome://tracing open the file.
    """

    def write_trace(finished: "profile") -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        finished.export_chrome_trace(str(path))

    activities = {ProfilerActivity.CPU, ProfilerActivity.CUDA} & supported_activities()
    profiler_schedule = schedule(wait=WAIT, warmup=WARM_UP, active=STEPS, repeat=1)
    with profile(activities=list(activities), schedule=profiler_schedule, on_trace_ready=write_trace) as profiler:
        yield profiler
