"""Checkpoints (torch.distributed.checkpoint): complete or absent, written in the background."""

import re
import shutil
import warnings
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

from toto.errors import UserError
from toto.training.config import Loop
from toto.training.objectives.base import Objective, Phase
from toto.training.parallel import is_sharded
from toto.training.world import World, all_of

# It warns, in whichever thread, of what it was told.
warnings.filterwarnings("ignore", "torch.distributed is disabled")

Optimizers = Sequence[tuple[Phase, list[Optimizer]]]


class Checkpoints:
    """The checkpoints of a run: `step-NNNNNN` in its folder.

    A checkpoint is copied to the CPU at once and written in the background. Where every process
    holds everything the first one writes; else each its part. A folder takes its name when all of
    it is there. Any number of processes, sharded or not, reads what any other wrote.
    """

    def __init__(
        self, run: Path, objective: Objective, optimizers: Optimizers, world: World, loop: Loop
    ) -> None:
        self.folder = run / "checkpoints"
        self.objective, self.optimizers, self.world, self.loop = objective, optimizers, world, loop
        self.sharded = is_sharded(objective.modules)
        # What is written in the background must not meet what the steps exchange.
        self.group = dist.new_group(backend="gloo") if self.sharded else None
        self.thread = ThreadPoolExecutor(1)
        self.pending: Future[None] | None = None

    def restore(self) -> int:
        """Load the newest checkpoint and return its step; 0 if there is none.

        Raises:
            UserError: the processes see different ones.
        """
        if self.world.is_first:
            for left in self.folder.glob(".step-*.partial"):
                shutil.rmtree(left)  # by a kill
        newest = max(self._steps(), default=0)
        if len(seen := set(all_of(self.world, newest))) > 1:
            raise UserError(
                f"{self.folder}: processes see checkpoints of different steps, "
                f"{', '.join(map(str, sorted(seen)))}: a run lies where all of them see it"
            )
        if not newest:
            return 0
        state = self._state()
        dcp.load(
            state,
            checkpoint_id=self._path(newest),
            process_group=self.group,
            no_dist=not self.sharded,
        )
        set_model_state_dict(self.objective.modules, state["modules"])
        for phase, its in self.optimizers:
            set_optimizer_state_dict(phase.module, its, state["optimizers"][phase.name])
        return newest

    def save(self, step: int) -> None:
        """Begin to write the state after `step` steps; the one before is done by then.

        Raises:
            OSError: the one before could not be written.
        """
        self.finish()
        if not (self.sharded or self.world.is_first):
            return
        partial = self.folder / f".step-{step:06d}.partial"
        if self.world.is_first:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True, exist_ok=True)  # others may have come first
        written = dcp.async_save(
            self._state(),
            checkpoint_id=partial,
            process_group=self.group,
            no_dist=not self.sharded,
        )
        self.pending = self.thread.submit(self._complete, written, partial, self._path(step))

    def finish(self) -> None:
        """Until the last checkpoint is written."""
        if self.pending is not None:
            pending, self.pending = self.pending, None
            pending.result()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        # An error on the way out is told before one of writing.
        if kind is None:
            self.finish()
        self.thread.shutdown()

    def _complete(self, written: Any, partial: Path, path: Path) -> None:
        written.result()
        if not self.world.is_first:  # which learns in writing that all parts are there
            return
        shutil.rmtree(path, ignore_errors=True)
        partial.rename(path)
        for step in self._superfluous():
            shutil.rmtree(self._path(step))

    def _superfluous(self) -> list[int]:
        """All but the newest, and but one of every `keep_hours` among the others."""
        old = self._steps()[: -self.loop.keep_checkpoints]
        if self.loop.keep_hours is None:
            return old
        superfluous, kept = [], float("-inf")
        for step in old:
            written = self._path(step).stat().st_mtime
            if written - kept < 3600 * self.loop.keep_hours:
                superfluous.append(step)
            else:
                kept = written
        return superfluous

    def _state(self) -> dict[str, Any]:
        return {
            "modules": get_model_state_dict(self.objective.modules),
            "optimizers": {
                phase.name: get_optimizer_state_dict(phase.module, its)
                for phase, its in self.optimizers
            },
        }

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}"

    def _steps(self) -> list[int]:
        if not self.folder.is_dir():
            return []
        matches = (re.fullmatch(r"step-(\d+)", path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in matches if match)
