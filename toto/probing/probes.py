"""Probes on all layers at once, trained by the training loop on frozen features."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from toto.probing.config import ProbeTraining
from toto.tokens.mixture import key_of, permute
from toto.training.config import AdamW
from toto.training.objectives.base import Batch, Metrics, Phase
from toto.training.parallel import ALONE, World

Features = Callable[[Int[Tensor, " b"]], dict[str, Tensor]]


@dataclass(frozen=True)
class Labelled:
    """Features of clips and the clips' classes."""

    features: Features
    labels: Int[Tensor, " clips"]

    def predictions(
        self, predict: Callable[[dict[str, Tensor]], dict[str, Tensor]], batch: int
    ) -> dict[str, Int[Tensor, " clips"]]:
        """The class that each probe gives each clip."""
        parts: list[dict[str, Tensor]] = []
        for rows in torch.arange(len(self.labels)).split(batch):
            logits = predict(self.features(rows))
            parts.append({name: value.argmax(-1).cpu() for name, value in logits.items()})
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


class Probes:
    """One probe for each features' name and learning rate, each seeing every batch."""

    unit = "clips"

    def __init__(
        self,
        config: ProbeTraining,
        train: Labelled,
        held_out: Labelled,
        build: Callable[[str], nn.Module],
        names: list[str],
    ) -> None:
        self.config, self.train, self.held_out = config, train, held_out
        self.modules = nn.ModuleDict()
        phases = []
        for rate in config.learning_rates:
            heads = nn.ModuleDict({name: _begin(build, name, config.seed) for name in names})
            group = f"{rate:g}".replace(".", "_")
            self.modules[group] = heads
            warmup = max(config.loop(len(train.labels)).steps // 20, 1)
            optimizer = AdamW(
                learning_rate=rate,
                warmup_steps=warmup,
                final_fraction=0.0,
                betas=(0.9, 0.999),
                weight_decay=config.weight_decay,
                clip=None,
            )
            phases.append(Phase(group, heads, optimizer, self._loss(heads)))
        self.phases = tuple(phases)
        self.accuracy: dict[str, float] = {}
        self._last: tuple[Tensor, dict[str, Tensor]] | None = None

    def batches(self, step: int, world: World = ALONE) -> list[Batch]:
        count, clips = min(self.config.batch, len(self.train.labels)), len(self.train.labels)
        per_epoch = max(clips // count, 1)
        epoch, place = divmod(step, per_epoch)
        places = np.arange(place * count, (place + 1) * count)
        rows = permute(places, clips, key_of(self.config.seed, "probe", epoch))
        return [torch.from_numpy(rows)]

    def size(self, batch: Batch) -> int:
        return len(batch)

    def schedules(self, step: int) -> dict[str, float]:
        return {}

    def after_step(self, step: int) -> None:
        self._last = None

    def compile(self) -> None:
        pass

    def predict(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Logits of every probe, by `learning rate/name`."""
        return {
            f"{group}/{name}": head(features[name])
            for group, heads in self.modules.items()
            for name, head in heads.items()  # type: ignore[operator]
        }

    def validate(self) -> dict[str, float]:
        guesses = self.held_out.predictions(self.predict, self.config.batch)
        self.accuracy = {
            name: float((guess == self.held_out.labels).float().mean())
            for name, guess in guesses.items()
        }
        return {f"held_out/{name}": value for name, value in self.accuracy.items()}

    def save(self, run: Path) -> None:
        weights = {
            name: value.contiguous().cpu() for name, value in self.modules.state_dict().items()
        }
        save_file(weights, run / "probes.safetensors")

    def _loss(self, heads: nn.ModuleDict) -> Callable[[Batch, int], tuple[Tensor, Metrics]]:
        def loss(rows: Tensor, step: int) -> tuple[Tensor, Metrics]:
            labels = self.train.labels[rows.cpu()].to(rows.device)
            features = self._features(rows.cpu())
            losses = [F.cross_entropy(head(features[n]), labels) for n, head in heads.items()]
            # Probes share no parameter, so that each gets from the sum what its own loss gives it.
            total = torch.stack(losses).sum()
            return total, {"loss": total / (len(losses) * len(self.phases))}

        return loss

    def _features(self, rows: Tensor) -> dict[str, Tensor]:
        # The phases of one step read the same clips.
        if self._last is None:
            self._last = (rows, self.train.features(rows))
        return self._last[1]


def _begin(build: Callable[[str], nn.Module], name: str, seed: int) -> nn.Module:
    """A new probe, the same whatever is built beside it."""
    torch.manual_seed(key_of(seed, "probe", name))
    return build(name)
