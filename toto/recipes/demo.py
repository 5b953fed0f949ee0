"""The recipe of `toto demo`: the main job in small."""

from dataclasses import dataclass, field

from toto.errors import at_least, within
from toto.probing.config import ProbeTraining
from toto.recipes import pretrain, tokenizer
from toto.training.config import Pretrain, TrainDVAE


@dataclass(frozen=True, kw_only=True)
class Demo:
    """What the demo makes and trains."""

    count: int = 1500
    """videos of the embedded world"""
    seed: int = 0
    """seed of the world's scenes"""
    workers: int = 2
    """processes that render and decode"""
    tokenizer: TrainDVAE = field(default_factory=tokenizer.demo)
    """the tokenizer and its training"""
    pretrain: Pretrain = field(default_factory=pretrain.demo)
    """the model and its training"""
    passes: int = 8
    """most passes over the clips in pre-training: with few videos more steps would only learn them
    by heart"""
    probe: ProbeTraining = field(
        default_factory=lambda: ProbeTraining(
            epochs=20, learning_rates=(1e-2,), weight_decays=(0.1,), heads=16
        )
    )
    """the probes and their training"""
    futures: int = 4
    """held-out clips that are continued in the report; 0 for none"""
    samples: int = 2
    """futures of each of them"""
    prompt: int = 6
    """frames of a clip that the model reads before it continues it"""

    def __post_init__(self) -> None:
        at_least(1, samples=self.samples)
        at_least(0, futures=self.futures)
        if self.futures:
            within(1, self.pretrain.frames - 1, prompt=self.prompt)


def demo() -> Demo:
    """The whole way on 2 CPU cores in under 8 minutes and 4 GiB: `toto demo`."""
    return Demo()
