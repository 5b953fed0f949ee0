"""The training loop, for every objective."""

import gc
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from toto.progress import console, progress
from toto.training import checkpoint
from toto.training.config import Loop
from toto.training.device import autocast, peak_memory, pick_device, pick_precision
from toto.training.interrupts import Interrupted, Interrupts
from toto.training.metrics import MetricsLog, read_metrics
from toto.training.objectives.base import Batch, Objective
from toto.training.optimizer import build_optimizer, clip_gradients
from toto.training.parallel import ALONE, World, add_gradients, any_of, total, wait
from toto.training.schedule import learning_rate


def train(objective: Objective, loop: Loop, run: Path, what: str, world: World = ALONE) -> None:
    """Train `objective` for `loop.steps` steps in the folder `run`, from its newest checkpoint on.

    Nothing is random but by (seed, step, process), so that a resumed run takes the very steps that
    an uninterrupted one takes. All processes of the world call this; the first one writes.

    Raises:
        Interrupted: a signal came; a checkpoint has been saved.
        FloatingPointError: a loss is not finite; no checkpoint holds it.
    """
    run.mkdir(parents=True, exist_ok=True)
    device = pick_device(loop.device)
    precision = pick_precision(loop.precision, device)
    torch.use_deterministic_algorithms(loop.deterministic)
    objective.modules.to(device)
    optimizers = [
        (phase, build_optimizer(phase.module, phase.optimizer)) for phase in objective.phases
    ]
    step = checkpoint.restore(run / "checkpoints", objective, optimizers)
    if loop.compile:
        objective.compile()
    before = [row for row in read_metrics(run) if row["step"] <= step]
    clock = _Clock(max((row["seconds"] for row in before), default=0.0))
    units = int(max((row.get(objective.unit, 0) for row in before), default=0))

    wait(world)  # until all have read what the first will write to
    with (
        MetricsLog(run, step) if world.is_first else nullcontext() as metrics,
        Interrupts() as interrupts,
        progress(what, loop.steps, "steps", step, world.is_first) as advance,
    ):
        sums, first = _Sums(units, world), step
        for batches in _prefetch(objective, step, loop.steps, device, world):
            torch.manual_seed(loop.seed * 1_000_003 + step + (world.rank << 32))
            for phase, optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
                for batch in batches:
                    with autocast(device, precision):
                        loss, values = phase.loss(batch, step)
                    loss.backward()
                    sums.add(values)
                add_gradients(world, phase.module)
                rate = learning_rate(phase.optimizer, step, loop.steps)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                norm = clip_gradients(phase.module, phase.optimizer.clip)
                optimizer.step()
                # The same in every process, and sums are added up over them.
                sums.add({f"{phase.name}/gradient_norm": norm / world.size})
                sums.latest[f"{phase.name}/learning_rate"] = rate
            objective.after_step(step)
            sums.latest |= objective.schedules(step)
            sums.count(sum(objective.size(batch) for batch in batches))
            step += 1
            if step == first + 1:
                _freeze_garbage()

            last = step == loop.steps
            stop = any_of(world, interrupts.received or 0)
            save = last or bool(stop) or step % loop.checkpoint_every == 0
            note = ""
            # Taking the means checks that they are finite, so no checkpoint goes unchecked.
            if save or step % loop.log_every == 0:
                means = sums.take(objective.unit, clock, device)
                if metrics:
                    metrics.log(step, clock.seconds(), means)
                note = f"loss {means['loss']:.3f}"
            advance(1, note)
            if last or step % loop.validate_every == 0:
                measured = _validate(objective, device, precision)
                if metrics:
                    metrics.log(step, clock.seconds(), measured)
            if save and world.is_first:  # all have the same
                checkpoint.save(
                    run / "checkpoints", step, objective, optimizers, loop.keep_checkpoints
                )
            if stop and not last:
                wait(world)
                if world.is_first:
                    console.print(f"stopped after step {step} and saved; run it again to continue")
                raise Interrupted(stop)
    if world.is_first:
        objective.save(run)
    wait(world)


def _validate(objective: Objective, device: torch.device, precision: Any) -> dict[str, float]:
    objective.modules.eval()
    with torch.no_grad(), autocast(device, precision):
        values = objective.validate()
    objective.modules.train()
    return values


def _prefetch(
    objective: Objective, start: int, steps: int, device: torch.device, world: World
) -> Iterator[list[Batch]]:
    """Each step's micro-batches on the device, the next step's prepared meanwhile."""

    def prepare(step: int) -> list[Batch]:
        batches = objective.batches(step, world)
        return batches if device.type == "cpu" else tree_map(_pin, batches)

    def _pin(value: Any) -> Any:
        return value.pin_memory() if isinstance(value, Tensor) else value

    def move(value: Any) -> Any:
        return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value

    with ThreadPoolExecutor(1) as executor:
        coming = executor.submit(prepare, start) if start < steps else None
        for step in range(start, steps):
            assert coming is not None
            batches = coming.result()
            if step + 1 < steps:
                coming = executor.submit(prepare, step + 1)
            yield tree_map(move, batches)


class _Clock:
    """Seconds of training, those before a resume counted in."""

    def __init__(self, spent: float) -> None:
        self.start = time.monotonic() - spent
        self.lap_start = time.monotonic()

    def seconds(self) -> float:
        return time.monotonic() - self.start

    def lap(self) -> float:
        now = time.monotonic()
        seconds, self.lap_start = now - self.lap_start, now
        return seconds


class _Sums:
    """Means over the steps since the last log, kept on the device until they are logged."""

    def __init__(self, units: int, world: World) -> None:
        self.all_units, self.world = units, world
        self.reset()

    def reset(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.latest: dict[str, float] = {}
        self.steps = self.units = 0

    def add(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            value = value.detach()
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def count(self, units: int) -> None:
        self.steps += 1
        self.units += units

    def take(self, unit: str, clock: _Clock, device: torch.device) -> dict[str, float]:
        """The means as numbers. Raises FloatingPointError if one is not finite."""
        names = list(self.sums)
        sums = torch.stack([self.sums[name].float() for name in names])
        numbers = total(self.world, sums).tolist()
        values = {name: number / self.steps for name, number in zip(names, numbers, strict=True)}
        for name, value in values.items():
            if value != value or value in (float("inf"), float("-inf")):
                raise FloatingPointError(f"{name} is {value} in the last {self.steps} steps")
        values |= self.latest
        units = int(total(self.world, torch.tensor([self.units])))
        self.all_units += units
        values[unit] = self.all_units
        values[f"{unit}_per_second"] = round(units / clock.lap(), 1)
        values["memory_bytes"] = float(peak_memory(device))
        self.reset()
        return values


def _freeze_garbage() -> None:
    """Full collections would pause the loop; what lives after the first step lives to the end."""
    gc.collect()
    gc.freeze()
