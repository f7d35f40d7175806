"""A trace of a few steps, for a look at where their time goes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.profiler import ProfilerActivity, profile, schedule, supported_activities

WAIT, WARM_UP, STEPS = 1, 1, 3


@contextmanager
def profile_steps(path: Path) -> Iterator["profile"]:
    """Call ``step()`` on what this gives after every step; ``file`` opens in Perfetto or chrome://tracing."""

    def write(done: "profile") -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        done.export_chrome_trace(str(path))

    activities = {ProfilerActivity.CPU, ProfilerActivity.CUDA} & supported_activities()
    profiler_schedule = schedule(wait=WAIT, warmup=WARM_UP, active=STEPS, repeat=1)
    with profile(activities=list(activities), schedule=profiler_schedule, on_trace_ready=write) as profiler:
        yield profiler
