"""Checkpoints of torch.distributed.checkpoint: complete or absent, the newest kept."""

import re
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

from toto.files import folder_atomically
from toto.training.objectives.base import Objective, Phase

Optimizers = Sequence[tuple[Phase, Optimizer]]


def save(folder: Path, step: int, objective: Objective, optimizers: Optimizers, keep: int) -> None:
    """Write the state after `step` steps, then remove all but the `keep` newest checkpoints."""
    with folder_atomically(folder / f"step-{step:06d}") as partial:
        state = _state(objective.modules, optimizers)
        with _alone():
            dcp.save(state, checkpoint_id=partial, no_dist=True)
    for old in sorted(_steps(folder))[:-keep]:
        shutil.rmtree(folder / f"step-{old:06d}")


def restore(folder: Path, objective: Objective, optimizers: Optimizers) -> int:
    """Load the newest checkpoint and return its step; 0 if there is none."""
    steps = _steps(folder)
    if not steps:
        return 0
    state = _state(objective.modules, optimizers)
    with _alone():
        dcp.load(state, checkpoint_id=folder / f"step-{max(steps):06d}", no_dist=True)
    set_model_state_dict(objective.modules, state["modules"])
    for phase, optimizer in optimizers:
        set_optimizer_state_dict(phase.module, optimizer, state["optimizers"][phase.name])
    return max(steps)


@contextmanager
def _alone() -> Iterator[None]:
    # It warns of what it was told.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        yield


def _state(modules: nn.Module, optimizers: Optimizers) -> dict[str, Any]:
    return {
        "modules": get_model_state_dict(modules),
        "optimizers": {
            phase.name: get_optimizer_state_dict(phase.module, optimizer)
            for phase, optimizer in optimizers
        },
    }


def _steps(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    matches = (re.fullmatch(r"step-(\d+)", path.name) for path in folder.iterdir())
    return [int(match[1]) for match in matches if match]
