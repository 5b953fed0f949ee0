"""The training loop, for every objective."""

import gc
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.profiler import record_function
from torch.utils._pytree import tree_map

from toto.progress import console, progress
from toto.training.checkpoint import Checkpoints, Optimizers
from toto.training.config import Loop, Precision
from toto.training.device import autocast, pick_device, pick_precision, recompute, round_hidden
from toto.training.interrupts import Interrupted, Interrupts
from toto.training.meter import Meter, Step
from toto.training.metrics import MetricsLog, read_metrics
from toto.training.objectives.base import Batch, Objective, Phase
from toto.training.optimizer import build_optimizers, clip_gradients, gradient_norm
from toto.training.parallel import add_gradients, before_backward, is_sharded, place, whole
from toto.training.profile import profiled
from toto.training.schedule import learning_rate
from toto.training.world import ALONE, World, any_of, wait

# Steps after which what lives will live to the end. Looking through all of it takes a quarter of a
# second: short trainings, of which studies have hundreds, do without.
_SETTLED = 50


def train(
    objective: Objective,
    loop: Loop,
    run: Path,
    what: str,
    world: World = ALONE,
    profile: bool = False,
) -> None:
    """Train `objective` for `loop.steps` steps in the folder `run`, from its newest checkpoint on.

    Nothing is random but by (seed, step, process), so that a resumed run takes the very steps that
    an uninterrupted one takes. All processes of the world call this; the first one writes.

    Raises:
        Interrupted: a signal came; a checkpoint has been saved.
        FloatingPointError: a loss or a gradient is not finite; no checkpoint holds it.
        UserError: the world cannot be divided as `loop` says.
    """
    run.mkdir(parents=True, exist_ok=True)
    device = pick_device(loop.device)
    precision = pick_precision(loop.precision, device)
    if loop.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or cuBLAS refuses
    torch.use_deterministic_algorithms(loop.deterministic)
    place(objective.modules, device, world, loop.sharding)
    optimizers = [(phase, _optimizers(phase)) for phase in objective.phases]
    checkpoints = Checkpoints(run, objective, optimizers, world, loop)
    step = checkpoints.restore()
    if not step:
        objective.initialise()
    round_hidden(objective.modules)
    recompute(objective.modules, loop.recompute)
    if loop.compile:
        objective.compile()
    before = [row for row in read_metrics(run) if row["step"] <= step]
    meter = Meter(objective, world, device, loop.steps, loop.skip_bad_steps, before)

    wait(world)  # until all have read what the first will write to
    with (
        MetricsLog(run, step, loop.trackers) if world.is_first else nullcontext() as metrics,
        Interrupts() as interrupts,
        checkpoints,
        progress(what, loop.steps, "steps", step, world.is_first) as advance,
        profiled(run, device, profile and world.is_first) as profiler,
        _garbage() as freeze_garbage,
    ):
        first = step
        for batches, waited in _prefetch(objective, step, loop.steps, device, world):
            torch.manual_seed(loop.seed * 1_000_003 + step + (world.rank << 32))
            taken = _take(objective, optimizers, batches, step, loop, world, device, precision)
            taken.waited = waited
            meter.add(taken)
            objective.after_step(step)
            step += 1
            profiler.step()
            if step == first + _SETTLED:
                freeze_garbage()

            last = step == loop.steps
            stop = any_of(world, interrupts.received or 0)
            save = last or bool(stop) or step % loop.checkpoint_every == 0
            note = ""
            # The meter looks whether all is finite, so no checkpoint goes unchecked.
            if save or step % loop.log_every == 0:
                row = meter.take() | _rates(objective, step - 1, loop)
                if metrics:
                    metrics.log(step, meter.seconds(), row)
                note = f"loss {row['loss']:.3f}" if "loss" in row else ""
            advance(1, note)
            if last or step % loop.validate_every == 0:
                with meter.paused():
                    measured = _validate(objective, world, device, precision)
                if metrics:
                    metrics.log(step, meter.seconds(), measured)
            if save:
                checkpoints.save(step)
            if stop and not last:
                checkpoints.finish()
                wait(world)
                if world.is_first:
                    console.print(f"stopped after step {step} and saved; run it again to continue")
                raise Interrupted(stop)
    objective.save(run, world)
    wait(world)


def _optimizers(phase: Phase) -> list[Optimizer]:
    return build_optimizers(
        phase.module, phase.optimizer, phase.rate_factor, phase.decays_alike, phase.muon
    )


def _take(
    objective: Objective,
    optimizers: Optimizers,
    batches: list[Batch],
    step: int,
    loop: Loop,
    world: World,
    device: torch.device,
    precision: Precision,
) -> Step:
    """One step of all phases; one whose gradient is not finite changes nothing."""
    taken = Step(step, units=sum(objective.size(batch) for batch in batches))
    for phase, its in optimizers:
        for optimizer in its:
            optimizer.zero_grad(set_to_none=True)
        for i, batch in enumerate(batches):
            before_backward(phase.module, last=i == len(batches) - 1)
            with record_function("forward"), autocast(device, precision):
                loss, values = phase.loss(batch, step)
            with record_function("backward"):
                loss.backward()
            taken.add(values)
        with record_function("add gradients"):
            if world.size > 1 and not is_sharded(phase.module):
                taken.own_norms[phase.name] = gradient_norm(phase.module)
            add_gradients(world, phase.module)
        rate = learning_rate(phase.optimizer, step, loop.steps)
        with record_function("optimizer"), autocast(device, precision):
            norm = whole(clip_gradients(phase.module, phase.optimizer.clip))
            bad = (~norm.isfinite()).float()
            for optimizer in its:
                for group in optimizer.param_groups:
                    group["lr"] = rate * group["factor"]
                # Read on the device, so that nothing waits for it.
                optimizer.found_inf = bad  # type: ignore[attr-defined]
                optimizer.step()
        taken.norms[phase.name] = norm
    return taken


def _rates(objective: Objective, step: int, loop: Loop) -> dict[str, float]:
    """What the schedules gave to a step."""
    rates = {
        f"{phase.name}/learning_rate": learning_rate(phase.optimizer, step, loop.steps)
        for phase in objective.phases
    }
    return rates | objective.schedules(step)


def _validate(
    objective: Objective, world: World, device: torch.device, precision: Precision
) -> dict[str, float]:
    objective.modules.eval()
    with torch.no_grad(), autocast(device, precision):
        values = objective.validate(world)
    objective.modules.train()
    return values


def _prefetch(
    objective: Objective, start: int, steps: int, device: torch.device, world: World
) -> Iterator[tuple[list[Batch], float]]:
    """Each step's micro-batches on the device, the next step's prepared meanwhile.

    With them, the seconds that they were waited for.
    """

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
            asked = time.monotonic()
            with record_function("wait for data"):
                batches = coming.result()
            waited = time.monotonic() - asked
            if step + 1 < steps:
                coming = executor.submit(prepare, step + 1)
            yield tree_map(move, batches), waited


@contextmanager
def _garbage() -> Iterator[Callable[[], None]]:
    """Full collections would pause the loop: what has settled is looked through but once."""

    def freeze() -> None:
        gc.collect()
        gc.freeze()

    try:
        yield freeze
    finally:
        gc.unfreeze()  # or it would live to the end of the process
