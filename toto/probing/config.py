"""What the training of probes is told."""

from dataclasses import dataclass

from toto.errors import at_least
from toto.training.config import Loop


@dataclass(frozen=True, kw_only=True)
class ProbeTraining:
    """How probes are trained (AIM, Toto sections 4.1 and A)."""

    epochs: int = 10
    """passes over the training clips"""
    batch: int = 32
    """clips in a step"""
    learning_rates: tuple[float, ...] = (1e-3, 3e-3)
    """each probe is trained with each of them; the best on the held-out part of train counts"""
    weight_decay: float = 0.1
    """decay of matrices"""
    held_out: float = 0.2
    """part of the training clips that layer and learning rate are chosen on"""
    heads: int | None = None
    """queries of the attention pooling; as many as the trunk has heads where none are given"""
    seed: int = 0
    """seed of initial weights and of the order of the clips"""

    def __post_init__(self) -> None:
        at_least(1, epochs=self.epochs, batch=self.batch, learning_rates=len(self.learning_rates))

    def loop(self, clips: int) -> Loop:
        steps = max(self.epochs * clips // min(self.batch, clips), 1)
        return Loop(
            steps=steps,
            seed=self.seed,
            precision="fp32",
            log_every=max(steps // 20, 1),
            validate_every=steps,
            checkpoint_every=max(steps // 4, 1),
        )
