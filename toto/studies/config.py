"""What the studies are told, and nothing of how they are carried out."""

from dataclasses import dataclass, field
from typing import Any, Literal

from toto.errors import UserError, at_least, positive
from toto.models.sizes import LlamaSize
from toto.probing.config import ProbeTraining


@dataclass(frozen=True, kw_only=True)
class RepresentationStudy:
    """How representations are compared."""

    seeds: int = 3
    """trainings of the probes of each contestant, each with another random trunk"""
    by_file: bool = False
    """test on the items of one file after the other, with probes of those of all other files"""
    probes: ProbeTraining = field(default_factory=ProbeTraining)
    """how probes are trained"""

    def __post_init__(self) -> None:
        at_least(1, seeds=self.seeds)


Compute = Literal["forward_macs", "training_flops"]


@dataclass(frozen=True, kw_only=True)
class ScalingStudy:
    """How the curves of runs become a law."""

    compute: Compute = "forward_macs"
    """forward_macs: multiplications of the forward pass, attention causal, which the paper's axis
    seems to be; training_flops: 6 N + 12 L d T for each token"""
    per_decade: int = 25
    """bins of a decade of compute, over which losses are averaged"""
    least: float = 1.0
    """points of less compute are left out: where the loss has hardly begun to fall, no law holds"""

    def __post_init__(self) -> None:
        at_least(1, per_decade=self.per_decade)
        positive(least=self.least)


Row = dict[str, Any]
"""One run: check, mup, width, seed; "change" by layer, or log2_rate and "loss" """


@dataclass(frozen=True, kw_only=True)
class MupStudy:
    """What is trained. The defaults take under 6 minutes on one core."""

    widths: tuple[int, ...] = (32, 64, 128, 256)
    """widths of the models; the first is muP's base"""
    layers: int = 2
    """blocks of each"""
    heads: int = 4
    """heads of each"""
    seeds: int = 1
    """runs of each kind, whose mean is taken"""
    batch: int = 16
    """sequences in a step"""
    positions: int = 32
    """tokens of a sequence"""
    coordinate_steps: int = 4
    """steps of the coordinate check"""
    coordinate_log2_rate: int = -8
    """its learning rate, as a power of 2"""
    steps: int = 120
    """steps of each run of the transfer"""
    log2_rates: tuple[int, ...] = (-11, -10, -9, -8, -7, -6, -5, -4)
    """its learning rates, as powers of 2"""
    device: str = "auto"
    """auto (cuda, mps, cpu in that order) or a device's name"""

    def __post_init__(self) -> None:
        at_least(1, seeds=self.seeds, steps=self.steps, coordinate_steps=self.coordinate_steps)
        if len(set(self.widths)) < 2:
            raise UserError(f"widths {self.widths}: at least two")

    def size(self, width: int, mup: bool) -> LlamaSize:
        """The model of that width."""
        return LlamaSize(
            width=width,
            layers=self.layers,
            heads=self.heads,
            mlp_width=3 * width,
            init_std=0.04,
            mup_base=self.widths[0] if mup else None,
        )

    def runs(self) -> list[Row]:
        """What tells the runs apart."""
        runs: list[Row] = []
        for mup in (True, False):
            for width in self.widths:
                for seed in range(self.seeds):
                    run = {"mup": mup, "width": width, "seed": seed}
                    runs.append({"check": "coordinates", **run})
                    runs += [{"check": "transfer", **run, "log2_rate": r} for r in self.log2_rates]
        return runs
