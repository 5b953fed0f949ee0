"""What the one training loop trains."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from toto.models.cost import Flops
from toto.training.config import AdamW
from toto.training.world import World

Batch = Any  # a tensor, or a tuple of tensors, of one micro-batch

Metrics = dict[str, Tensor]
"""What is logged of a micro-batch. Scalars add up to the step's value over its micro-batches. Where
the objective names `parts`, two rows: totals and counts of each part, whose mean is logged."""


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
    """(micro-batch, step) to its share of the step's loss, and what to log"""
    rate_factor: Callable[[str], float] = lambda name: 1.0
    """a parameter's name in `module` to its learning rate as a factor of the optimizer's"""
    decays_alike: bool = True
    """whether a step decays all parameters alike (muP), or each by its factor (layer decay)"""
    muon: bool = False
    """whether Muon, and not AdamW, trains the matrices of the module's blocks"""


class Objective(ABC):
    """What is trained: modules, batches, losses, and what remains at the end."""

    unit: ClassVar[str]
    """what a step consumes, for rates: "tokens", "frames" """
    modules: nn.ModuleDict
    """everything that a checkpoint holds"""
    phases: tuple[Phase, ...]
    parts: Mapping[str, tuple[str, ...]] = {}
    """names of the parts of metrics that are logged by part"""

    @abstractmethod
    def batches(self, step: int, world: World) -> list[Batch]:
        """The process's micro-batches of a step, on the CPU: a pure function of the arguments."""

    @abstractmethod
    def size(self, batch: Batch) -> int:
        """How many units one micro-batch holds."""

    @abstractmethod
    def validate(self, world: World) -> dict[str, float]:
        """Measures on held-out data; called by all processes, without gradients.

        Computed in the run's precision.
        """

    @abstractmethod
    def save(self, run: Path, world: World) -> None:
        """Write what the run was for into the run's folder; called by all processes."""

    def initialise(self) -> None:
        """Give parameters that were made without values their first ones, alike in every world."""
        return

    def flops(self, step: int) -> Flops | None:
        """Operations of training on one unit at a step, if they are known."""
        return None

    def schedules(self, step: int) -> dict[str, float]:
        """Values of the objective's own schedules at a step, for the log."""
        return {}

    def after_step(self, step: int) -> None:
        """Called when all phases of a step are done."""
        return

    def compile(self) -> None:
        """Compile what a step runs."""
        return
