"""What a run measures between two lines of its log, kept on the device until then."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isfinite

import torch
from torch import Tensor

from toto.models.cost import gpu_of
from toto.training.device import peak_memory
from toto.training.objectives.base import Metrics, Objective
from toto.training.world import World, all_of, total

Row = dict[str, float | int]


@dataclass
class Step:
    """What one step gave: sums of its micro-batches, and the norms of its gradients."""

    step: int
    values: Metrics = field(default_factory=dict)
    norms: dict[str, Tensor] = field(default_factory=dict)
    """by phase; of all processes' gradients, so the same everywhere"""
    own_norms: dict[str, Tensor] = field(default_factory=dict)
    """by phase; of this process's gradients alone, where each has all of them"""
    units: int = 0
    waited: float = 0.0
    """seconds that the loop waited for the step's data"""

    def add(self, values: Metrics) -> None:
        for name, value in values.items():
            value = value.detach()
            self.values[name] = self.values[name] + value if name in self.values else value


class Meter:
    """Means over the steps since the last line; rates; what is left.

    A step whose gradients are not finite counts for nothing: it has changed nothing.
    """

    def __init__(
        self,
        objective: Objective,
        world: World,
        device: torch.device,
        steps: int,
        allowed: int,
        before: Sequence[Row],
    ) -> None:
        """`before` are the lines of a run that goes on; `allowed` bad steps do not end it."""
        self.objective, self.world, self.device = objective, world, device
        self.all_steps, self.allowed = steps, allowed
        self.units = int(max((row.get(objective.unit, 0) for row in before), default=0))
        self.skipped = int(max((row.get("skipped_steps", 0) for row in before), default=0))
        self.start = time.monotonic() - max((row["seconds"] for row in before), default=0.0)
        self.lap_start = time.monotonic()
        self.steps: list[Step] = []

    def seconds(self) -> float:
        """Seconds of training, those before a resume counted in."""
        return time.monotonic() - self.start

    def add(self, step: Step) -> None:
        self.steps.append(step)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done meanwhile is no part of a step's time."""
        start = time.monotonic()
        yield
        self.lap_start += time.monotonic() - start

    def take(self) -> dict[str, float]:
        """The line of the log for the steps since the last one.

        Raises:
            FloatingPointError: more steps than are allowed were not finite, or a mean is not.
        """
        bad = self._bad_steps()
        good = [step for step in self.steps if step.step not in bad]
        values = self._means(good)
        for name, value in values.items():
            if not isfinite(value):
                raise FloatingPointError(f"{name} is {value} after step {self.steps[-1].step + 1}")
        values |= self._rates()
        if self.skipped:
            values["skipped_steps"] = self.skipped
        self.steps = []
        return values

    def _bad_steps(self) -> set[int]:
        """Steps with a gradient that is not finite; the one look at them all."""
        norms = torch.stack([norm.float() for step in self.steps for norm in step.norms.values()])
        finite = norms.isfinite().view(len(self.steps), -1).all(dim=1).tolist()
        bad = [step for step, is_finite in zip(self.steps, finite, strict=True) if not is_finite]
        left = self.allowed - self.skipped
        if len(bad) > left:
            raise FloatingPointError(self._blame(bad[left]))
        self.skipped += len(bad)
        return {step.step for step in bad}

    def _blame(self, bad: Step) -> str:
        """Which processes' losses were not finite, and on which parts of their data."""
        names = []
        for name, value in bad.values.items():
            parts = self.objective.parts.get(name, ())
            of = value[0] if parts else value.view(1)
            for part, is_finite in zip(parts or (name,), of.isfinite().tolist(), strict=True):
                if not is_finite:
                    names.append(f"{name} {part}" if parts else part)
        names += [f"gradient of {n}" for n, norm in bad.own_norms.items() if not norm.isfinite()]
        said = all_of(self.world, ", ".join(names))
        ranks = [f"rank {rank}: {text}" for rank, text in enumerate(said) if text]
        norms = [name for name, norm in bad.norms.items() if not bool(norm.isfinite())]
        where = f"not finite before it: {'; '.join(ranks)}" if ranks else "all before it was finite"
        again = f", after {self.allowed} that were left out" if self.allowed else ""
        return (
            f"step {bad.step + 1}{again}: the gradient of {', '.join(norms)} is not finite; "
            f"{where} (--skip-bad-steps leaves such steps out)"
        )

    def _means(self, good: Sequence[Step]) -> dict[str, float]:
        """Of scalars over steps, of parts over all that the steps have seen of each."""
        if not good:
            return {}
        sums = Step(0)
        for step in good:
            sums.add(step.values)
        names = list(sums.values)
        flat = torch.cat([sums.values[name].float().flatten() for name in names])
        numbers = iter(total(self.world, flat).tolist())
        values: dict[str, float] = {}
        for name in names:
            parts = self.objective.parts.get(name)
            if parts is None:
                values[name] = next(numbers) / len(good)
                continue
            totals = [next(numbers) for _ in parts]
            counts = [next(numbers) for _ in parts]
            for part, of_part, count in zip(parts, totals, counts, strict=True):
                if count:
                    values[f"{name}/{part}"] = of_part / count
        for name in good[0].norms:
            norms = torch.stack([step.norms[name] for step in good])
            values[f"{name}/gradient_norm"] = float(norms.mean())
        return values

    def _rates(self) -> dict[str, float]:
        now = time.monotonic()
        seconds, self.lap_start = now - self.lap_start, now
        unit, mine = self.objective.unit, sum(step.units for step in self.steps)
        units = int(total(self.world, torch.tensor([mine])))
        self.units += units
        left = self.all_steps - 1 - self.steps[-1].step
        values = {
            unit: float(self.units),
            f"{unit}_per_second": round(units / seconds, 1),
            "data_wait": round(sum(step.waited for step in self.steps) / seconds, 4),
            "memory_bytes": float(peak_memory(self.device)),
            "seconds_left": round(left * seconds / len(self.steps), 1),
        }
        return values | self._mfu(units / seconds)

    def _mfu(self, rate: float) -> dict[str, float]:
        """Parts of the data sheet's peak, of a GPU that is known: attention whole, and causal."""
        if self.device.type != "cuda":
            return {}
        gpu = gpu_of(torch.cuda.get_device_name(self.device))
        flops = self.objective.flops(self.steps[-1].step)
        if gpu is None or flops is None:
            return {}
        peak = gpu.peak * self.world.size
        return {
            "mfu_full": round(flops.whole * rate / peak, 4),
            "mfu_causal": round(flops.causal * rate / peak, 4),
            "peak_flops": peak,
        }
