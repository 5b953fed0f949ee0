"""Where the time of a step goes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, schedule
from torch.profiler import profile as torch_profile

from toto.progress import console

# The first steps compile and warm up.
_SKIPPED, _WARM, _STEPS = 5, 3, 5
_LAST = _SKIPPED + _WARM + _STEPS

_PARTS = ("wait for data", "forward", "backward", "add gradients", "optimizer")
_ROWS = 15


class NoProfiler:
    """Measures nothing."""

    def step(self) -> None:
        pass


@contextmanager
def profiled(run: Path, device: torch.device, wanted: bool) -> Iterator[Any]:
    """Profile a few steps, once warm; call `step` after each.

    Prints the parts of a step and the costliest kernels, and writes `run/profile.json`, a trace
    that Perfetto and chrome://tracing open.
    """
    if not wanted:
        yield NoProfiler()
        return
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)

    def ready(profiler: torch_profile) -> None:
        if profiler.step_num < _LAST:
            console.print(f"no profile: it is of steps {_SKIPPED + _WARM + 1} to {_LAST}")
            return
        profiler.export_chrome_trace(str(run / "profile.json"))
        console.print(summary(profiler.key_averages(), device))
        console.print(f"trace: {run / 'profile.json'}")

    when = schedule(wait=_SKIPPED, warmup=_WARM, active=_STEPS, repeat=1)
    with torch_profile(activities=activities, schedule=when, on_trace_ready=ready) as profiler:
        yield profiler


def summary(events: Any, device: torch.device) -> str:
    """Milliseconds a step: its parts by the CPU's clock, kernels by their own on the device."""
    on_gpu = device.type == "cuda"
    by_name = {event.key: event for event in events}
    lines = ["ms a step, by part (CPU's clock)"]
    parts = [name for name in _PARTS if name in by_name]
    lines += [f"{_ms(by_name[name].cpu_time_total)}  {name}" for name in parts]

    def own(event: Any) -> float:
        return float(event.self_device_time_total if on_gpu else event.self_cpu_time_total)

    others = (e for e in events if not e.key.startswith((*_PARTS, "ProfilerStep")))
    kernels = sorted(others, key=own, reverse=True)
    everything = sum(own(event) for event in kernels) or 1.0
    lines.append(f"ms a step, by kernel on {device.type}")
    for event in kernels[:_ROWS]:
        share, calls = own(event) / everything, event.count / _STEPS
        lines.append(f"{_ms(own(event))} {share:5.1%} {calls:6.0f} x  {event.key[:60]}")
    return "\n".join(lines)


def _ms(microseconds: float) -> str:
    return f"{microseconds / _STEPS / 1000:9.2f}"
