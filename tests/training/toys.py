"""Small objectives, and runs of them that the tests start as processes."""

import time
from collections.abc import Container
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tests.tiny import DVAE_SIZE
from toto.models.sizes import LlamaSize
from toto.tokens.loader import Sequences, freeze
from toto.tokens.store import TokenDataset
from toto.training.config import AdamW, Loop, Pretrain, TrainDVAE
from toto.training.loop import train
from toto.training.objectives.base import Batch, Metrics, Objective, Phase
from toto.training.objectives.dvae import TrainDVAEObjective
from toto.training.objectives.next_token import NextToken
from toto.training.parallel import place
from toto.training.world import ALONE, World

LOOP = Loop(
    steps=10,
    device="cpu",
    precision="fp32",
    log_every=1,
    validate_every=4,
    checkpoint_every=5,
    keep_checkpoints=9,
)
PRETRAIN = Pretrain(
    model=LlamaSize(width=32, layers=2, heads=4, mlp_width=48, tied_head=True),
    loop=LOOP,
    optimizer=AdamW(learning_rate=1e-2, warmup_steps=2),
    frames=4,
    batch=8,
    micro_batch=4,
    curriculum=((0.4, 2),),
    validation_fraction=0.2,
    validation_sequences=4,
)
TRAIN_DVAE = TrainDVAE(
    tokenizer=DVAE_SIZE,
    loop=LOOP,
    optimizer=AdamW(learning_rate=1e-2, warmup_steps=2, betas=(0.9, 0.99)),
    size=8,
    batch=8,
    micro_batch=4,
    temperature_steps=8,
    kl_weight=1.0,
    kl_steps=5,
    usage_weight=0.5,
    ema_decay=0.8,
)


def next_token(data: Path, config: Pretrain = PRETRAIN) -> NextToken:
    read = [
        Sequences(freeze([TokenDataset(data)], (), config.frames, config.loop.seed, split, 0.2))
        for split in ("train", "validation")
    ]
    objective = NextToken(config, *read)
    place(objective.modules, torch.device("cpu"), ALONE, "none")
    objective.initialise()
    return objective


def dvae(config: TrainDVAE = TRAIN_DVAE) -> TrainDVAEObjective:
    return TrainDVAEObjective(config, colours(24, seed=1), colours(6, seed=2))


def colours(count: int, seed: int) -> np.ndarray:
    """Frames of 8x8 pixels of one colour each."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 3, 1, 1), np.uint8).repeat(8, 2).repeat(8, 3)


class Adversaries(Objective):
    """A generator of points and a discriminator, each with its own optimizer and phase."""

    unit = "points"

    def __init__(self, learning_rate: float = 1e-2) -> None:
        torch.manual_seed(0)
        self.generator, self.discriminator = nn.Linear(2, 2), nn.Linear(2, 1)
        self.modules = nn.ModuleDict(
            {"generator": self.generator, "discriminator": self.discriminator}
        )
        how = AdamW(learning_rate=learning_rate, warmup_steps=1, clip=None)
        self.phases = (
            Phase("generator", self.generator, how, self.fool),
            Phase("discriminator", self.discriminator, replace(how, weight_decay=0.0), self.judge),
        )
        self.calls: list[str] = []
        self.poison: Container[int] = ()
        """steps whose loss is not finite"""

    def batches(self, step: int, world: World = ALONE) -> list[Batch]:
        noise = torch.Generator().manual_seed(step)
        return list(torch.randn(6, 2, generator=noise).split(3))

    def size(self, batch: Batch) -> int:
        return len(batch)

    def fool(self, batch: Tensor, step: int) -> tuple[Tensor, Metrics]:
        self.calls.append(f"{step} generator")
        made = self.generator(batch + 0.1 * torch.randn_like(batch))
        loss = nn.functional.softplus(-self.discriminator(made)).mean() / 2
        if step in self.poison:
            loss = loss * float("nan")
        return loss, {"loss": loss.detach()}

    def judge(self, batch: Tensor, step: int) -> tuple[Tensor, Metrics]:
        self.calls.append(f"{step} discriminator")
        # Not detached: its gradient reaches the generator, and must not stay there.
        made = self.discriminator(self.generator(batch))
        loss = (
            nn.functional.softplus(made) + nn.functional.softplus(-self.discriminator(batch + 1))
        ).mean() / 2
        return loss, {"judge": loss.detach()}

    def schedules(self, step: int) -> dict[str, float]:
        return {"dial": float(step)}

    def after_step(self, step: int) -> None:
        self.calls.append(f"{step} done")

    def validate(self, world: World = ALONE) -> dict[str, float]:
        self.calls.append("validate")
        return {"held_out": float(self.generator.weight.sum())}

    def save(self, run: Path, world: World = ALONE) -> None:
        torch.save(self.modules.state_dict(), run / "adversaries.pt")


def run_next_token(data: Path, run: Path) -> None:
    train(next_token(data), LOOP, run, "test")


def run_dvae(run: Path) -> None:
    train(dvae(), LOOP, run, "test")


def run_adversaries(run: Path) -> None:
    train(Adversaries(), LOOP, run, "test")


def run_slowly(data: Path, run: Path) -> None:
    """Steps of 50 ms."""
    objective = next_token(data)
    after_step = objective.after_step

    def sleep(step: int) -> None:
        time.sleep(0.05)
        after_step(step)

    objective.after_step = sleep
    train(objective, LOOP, run, "test")
