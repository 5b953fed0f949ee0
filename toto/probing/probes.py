"""Probes on all layers at once, trained by the training loop on frozen features."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from toto.probing.config import ProbeTraining
from toto.probing.pooling import Bank
from toto.tokens.mixture import key_of, permute
from toto.training.config import AdamW
from toto.training.objectives.base import Batch, Metrics, Objective, Phase
from toto.training.world import ALONE, World, all_of
from toto.weights import write_weights

Features = Callable[[Int[Tensor, " b"], int], dict[str, Tensor]]
"""Features of clips by name, in the view of a turn: an epoch of training, or one of a test's."""

# Top-5 is what the field reports.
_BEST = 5


@dataclass(frozen=True)
class Labelled:
    """Features of clips and the clips' classes."""

    features: Features
    labels: Int[Tensor, " clips"]
    views: int = 1
    """of each clip, over which a test averages"""

    def predictions(
        self,
        predict: Callable[[dict[str, Tensor]], dict[str, Tensor]],
        batch: int,
        world: World = ALONE,
        advance: Callable[[int], None] = lambda done: None,
    ) -> dict[str, Int[Tensor, "g clips best"]]:
        """The classes that each probe holds for likeliest, up to five, best first.

        `predict` gives logits `(g, b, classes)` of features, by name. Probabilities are averaged
        over the views. Processes share the clips, and all get all.
        """
        mine = world.part(len(self.labels))
        parts: list[dict[str, Tensor]] = []
        for rows in mine.split(batch) if len(mine) else ():
            sums: dict[str, Tensor] = {}
            for view in range(self.views):
                for name, logits in predict(self.features(rows, view)).items():
                    # In fp32 unlikely classes would be equally impossible.
                    sums[name] = sums.get(name, 0) + logits.double().softmax(-1)
            best = {name: x.topk(min(_BEST, x.shape[-1])).indices.cpu() for name, x in sums.items()}
            parts.append(best)
            advance(len(rows))
        parts = [part for some in all_of(world, parts) for part in some]
        return {name: torch.cat([part[name] for part in parts], 1) for name in parts[0]}

    def accuracy(self, guesses: Int[Tensor, "g clips best"]) -> list[float]:
        """The part of the clips whose first guess is right."""
        right = guesses[..., 0] == self.labels
        return [float(x) for x in right.double().mean(1)]


class Probes(Objective):
    """Banks of probes, one member for each point of the grid, each seeing every batch.

    A bank is named `WHAT/FEATURES` by the features that it reads.
    """

    unit = "clips"

    def __init__(
        self,
        config: ProbeTraining,
        train: Labelled,
        held_out: Labelled,
        build: Mapping[str, Callable[[], Bank]],
        beside: Phase | None = None,
    ) -> None:
        """`beside` trains what the features are of, after the probes have had their turns."""
        self.config, self.train, self.held_out = config, train, held_out
        self.banks = {name: _begin(bank, name, config.seed) for name, bank in build.items()}
        self.modules = nn.ModuleDict(self.banks)
        if beside:
            self.modules[beside.name] = beside.module
        warmup = max(config.loop(len(train.labels)).steps // 20, 1)
        self.points = tuple(
            Phase(
                f"{rate:g}/{decay:g}".replace(".", "_"),
                nn.ModuleDict({name: bank.members[i] for name, bank in self.banks.items()}),
                AdamW(
                    learning_rate=rate,
                    warmup_steps=warmup,
                    final_fraction=0.0,
                    betas=(0.9, 0.999),
                    weight_decay=decay,
                    clip=None,
                ),
                self._loss(i),
            )
            for i, (rate, decay) in enumerate(config.grid)
        )
        self.phases = self.points + ((beside,) if beside else ())
        self.accuracy: dict[str, list[float]] = {}
        """by bank and point of the grid, on the held-out clips"""
        self._step: list[tuple[Tensor, list[Tensor]]] = []

    def batches(self, step: int, world: World = ALONE) -> list[Batch]:
        count, clips = min(self.config.batch, len(self.train.labels)), len(self.train.labels)
        per_epoch = max(clips // count, 1)
        epoch, place = divmod(step, per_epoch)
        places = np.arange(place * count, (place + 1) * count)
        rows = permute(places, clips, key_of(self.config.seed, "probe", epoch))
        return [(torch.from_numpy(rows)[world.part(count)], epoch, count)]

    def size(self, batch: Batch) -> int:
        return len(batch[0])

    def after_step(self, step: int) -> None:
        self._step = []

    def predict(
        self, features: dict[str, Tensor], chosen: dict[str, int] | None = None
    ) -> dict[str, Float[Tensor, "g b classes"]]:
        """Logits of every probe by bank, or of the `chosen` one of each."""
        return {
            name: bank(features[_source(name)], chosen and [chosen[name]])
            for name, bank in self.banks.items()
        }

    def validate(self, world: World = ALONE) -> dict[str, float]:
        guesses = self.held_out.predictions(self.predict, self.config.batch, world)
        self.accuracy = {name: self.held_out.accuracy(guess) for name, guess in guesses.items()}
        return {
            f"held_out/{name}/{phase.name}": value
            for name, values in self.accuracy.items()
            for phase, value in zip(self.points, values, strict=True)
        }

    def chosen(self) -> dict[str, int]:
        """By bank the point of the grid that is best on the held-out clips."""
        return {name: max(range(len(a)), key=a.__getitem__) for name, a in self.accuracy.items()}

    def save(self, run: Path, world: World = ALONE) -> None:
        if not world.is_first:
            return
        weights = {
            f"{bank}.{name}": value
            for bank, module in self.banks.items()
            for name, value in module.state_dict().items()
        }
        write_weights(run / "probes.safetensors", weights)

    def _loss(self, point: int) -> Callable[[Batch, int], tuple[Tensor, Metrics]]:
        def loss(batch: Batch, step: int) -> tuple[Tensor, Metrics]:
            # Each point of the grid has its own optimizer; the first one's turn computes the
            # gradients of all of them, which share the features and most of the work.
            if point == 0:
                self._step = self._gradients(*batch)
            value, gradients = self._step[point]
            total = _Known.apply(value, gradients, *self.points[point].module.parameters())
            return total, {"loss": value / (len(self.banks) * len(self.points))}

        return loss

    def _gradients(
        self, rows: Int[Tensor, " b"], epoch: int, count: int
    ) -> list[tuple[Tensor, list[Tensor]]]:
        """By point of the grid: the sum of its losses over the banks, and its gradients.

        The losses are shares of the whole step's, of `count` clips. Probes share no parameter, so
        that each gets from a sum what its own loss gives it.
        """
        labels = self.train.labels[rows.cpu()].to(rows.device)
        features = self.train.features(rows.cpu(), epoch)
        found: list[tuple[list[Tensor], list[Tensor]]] = [([], []) for _ in self.points]
        for name, bank in self.banks.items():
            logits = bank(features[_source(name)])
            every = labels.expand(len(logits), -1)
            losses = F.cross_entropy(logits.mT, every, reduction="none").sum(1) / count
            gradients = iter(torch.autograd.grad(losses.sum(), list(bank.members.parameters())))
            for (values, own), value, member in zip(
                found, losses.detach(), bank.members, strict=True
            ):
                values.append(value)
                own.extend(next(gradients) for _ in member.parameters())
        return [(torch.stack(values).sum(), own) for values, own in found]


class _Known(torch.autograd.Function):
    """A loss whose gradients have been computed before."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[Tensor], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        # Whatever is held elsewhere would be copied.
        gradients = tuple(ctx.gradients)
        ctx.gradients.clear()
        return None, None, *gradients


def _source(name: str) -> str:
    return name.rsplit("/", 1)[1]


def _begin(build: Callable[[], Bank], name: str, seed: int) -> Bank:
    """New probes, the same whatever is built beside them."""
    torch.manual_seed(key_of(seed, "probe", name))
    return build()
