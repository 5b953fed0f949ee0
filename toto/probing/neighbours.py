"""Classes by the nearest neighbours among the training clips (Wu et al. 2018; DINO's settings)."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from toto.probing.probes import Features
from toto.tokens.mixture import key_of, permute
from toto.training.world import ALONE, World, total

_NEIGHBOURS, _TEMPERATURE = 20, 0.07
# Memory for the means of all layers: from what does not fit no neighbours are taken.
_LIMIT = 2**30


class Passing:
    """Features that leave their means over the positions behind as they pass, for free.

    They are the same at every turn.
    """

    def __init__(self, features: Features, clips: int, seed: int, limit: int = _LIMIT) -> None:
        self.features, self.limit = features, limit
        order = permute(np.arange(clips), clips, key_of(seed, "neighbours"))
        self._order = torch.from_numpy(order)
        self._place = torch.empty(clips, dtype=torch.long)
        self._place[self._order] = torch.arange(clips)
        self._seen = torch.zeros(clips, dtype=torch.bool)
        self._means: dict[str, Tensor] = {}

    def __call__(self, rows: Int[Tensor, " b"], turn: int = 0) -> dict[str, Tensor]:
        hidden = self.features(rows, turn)
        if not self._means:
            bytes_each = sum(4 * x.shape[-1] for x in hidden.values())
            count = min(max(self.limit // bytes_each, 1), len(self._order))
            self._means = {name: torch.zeros(count, x.shape[-1]) for name, x in hidden.items()}
        self._seen[rows] = True
        places = self._place[rows]
        for name, means in self._means.items():
            kept = places < len(means)
            means[places[kept]] = _mean(hidden[name])[kept]
        return hidden

    def means(
        self, batch: int, world: World = ALONE
    ) -> tuple[dict[str, Tensor], Int[Tensor, " kept"]]:
        """Means of randomly chosen clips, as many as fit into memory, by name; and which they are.

        What has not passed by yet, in no process, is computed; the processes share that.
        """
        if not self._means:
            self(torch.arange(1))
        rows = self._order[: len(next(iter(self._means.values())))]
        passed = total(world, self._seen[rows].int())
        left = rows[passed == 0]
        for some in left[world.part(len(left))].split(batch):
            if len(some):
                self(some)
        if world.size > 1:
            passed = total(world, self._seen[rows].int())
            for means in self._means.values():
                total(world, means).div_(passed[:, None])
        return self._means, rows


class Neighbours:
    """Votes of the 20 nearest training clips by the cosine of centred means: exp(cosine / 0.07)."""

    def __init__(
        self, means: dict[str, Tensor], labels: Int[Tensor, " clips"], classes: int
    ) -> None:
        self.labels, self.classes = labels, classes
        # What all states share would make all cosines 1.
        self.centres = {name: x.mean(0) for name, x in means.items()}
        self.directions = {
            name: F.normalize(x - self.centres[name], dim=1) for name, x in means.items()
        }

    def __call__(self, hidden: dict[str, Tensor]) -> dict[str, Float[Tensor, "1 b classes"]]:
        """Logarithms of the votes for each class, by `knn/NAME`."""
        votes = {name: self._votes(name, hidden[name]) for name in self.directions}
        return {f"knn/{name}": votes[name].log()[None] for name in votes}

    def _votes(self, name: str, hidden: Float[Tensor, "b t c"]) -> Float[Tensor, "b classes"]:
        asked = F.normalize(_mean(hidden) - self.centres[name], dim=1)
        near = (asked @ self.directions[name].T).topk(min(_NEIGHBOURS, len(self.labels)))
        votes = torch.zeros(len(asked), self.classes)
        weights = ((near.values - 1) / _TEMPERATURE).exp()
        return votes.scatter_add_(1, self.labels[near.indices], weights)


def _mean(hidden: Float[Tensor, "b t c"]) -> Float[Tensor, "b c"]:
    return hidden.mean(1, dtype=torch.float32).cpu()
