"""What the one training loop trains."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from toto.training.config import AdamW
from toto.training.parallel import World

Batch = Any  # a tensor, or a tuple of tensors, of one micro-batch
Metrics = dict[str, Tensor]


@dataclass(frozen=True)
class Phase:
    """One optimizer's part of a step.

    An adversarial objective has two: they run in order on the same micro-batches. Gradients that a
    phase leaves in another phase's module are dropped before that one's turn.
    """

    name: str
    module: nn.Module
    optimizer: AdamW
    loss: Callable[[Batch, int], tuple[Tensor, Metrics]]
    """(micro-batch, step) to its share of the step's loss, and what to log: scalars that add up
    to the step's value over its micro-batches"""


@runtime_checkable
class Objective(Protocol):
    """What is trained: modules, batches, losses, and what remains at the end."""

    modules: nn.ModuleDict
    """everything that a checkpoint holds"""
    phases: tuple[Phase, ...]
    unit: str
    """what a step consumes, for rates: "tokens", "frames" """

    def batches(self, step: int, world: World) -> list[Batch]:
        """The process's micro-batches of a step, on the CPU: a pure function of the arguments."""
        ...

    def size(self, batch: Batch) -> int:
        """How many units one micro-batch holds."""
        ...

    def schedules(self, step: int) -> dict[str, float]:
        """Values of the objective's own schedules at a step, for the log."""
        ...

    def after_step(self, step: int) -> None:
        """Called when all phases of a step are done."""
        ...

    def compile(self) -> None:
        """Compile what a step runs."""
        ...

    def validate(self) -> dict[str, float]:
        """Measures on held-out data; called without gradients, in the run's precision."""
        ...

    def save(self, run: Path) -> None:
        """Write what the run was for into the run's folder."""
        ...
