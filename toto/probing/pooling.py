"""Probes of frozen hidden states: those of one kind on one layer are computed together.

Their hidden states are the same and need no gradient, and an attention pool with one query is
linear in them: the key projection folds into the query, and the value projection is applied to what
has been pooled. So the positions are read once, by the heads of all probes as the columns of one
matrix; what is left to each probe is as small as one position.
"""

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from toto.probing.config import ProbeKind
from toto.training.world import ALONE, World, total

Pool = Callable[[Tensor], Tensor]

POOLS: dict[str, Pool] = {
    "none": lambda x: x,
    "mean": lambda x: x.mean(1),
    "last": lambda x: x[:, -1],
}
"""What becomes of the states of a clip's positions, `(b, t, c)`, by name."""


_MOMENTUM = 0.1


class BatchNorm(nn.BatchNorm1d):
    """Batch norm without affine, over the batches of all processes together."""

    def __init__(self, width: int, world: World = ALONE) -> None:
        super().__init__(width, eps=1e-6, momentum=_MOMENTUM, affine=False)
        self.world = world

    def forward(self, x: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        # PyTorch's own for several processes is for GPUs alone.
        if self.world.size == 1 or not self.training:
            return super().forward(x)
        count = float(total(self.world, torch.tensor([float(len(x))], dtype=torch.float64)))
        mean = total(self.world, x.sum(0, dtype=torch.float32)) / count
        variance = total(self.world, (x - mean).square().sum(0)) / count
        assert self.running_mean is not None and self.running_var is not None
        self.running_mean.lerp_(mean, _MOMENTUM)
        self.running_var.lerp_(variance * count / (count - 1), _MOMENTUM)
        return F.batch_norm(x, mean, variance, eps=self.eps)


class Bank(nn.Module):
    """`count` probes that begin alike and share no parameter."""

    def __init__(self, probe: nn.Module, count: int) -> None:
        super().__init__()
        self.members = nn.ModuleList(deepcopy(probe) for _ in range(count))

    def forward(
        self, hidden: Float[Tensor, "b t c"], chosen: Sequence[int] | None = None
    ) -> Float[Tensor, "g b classes"]:
        """The logits of all members, or of the `chosen` ones."""
        members = self.members if chosen is None else [self.members[i] for i in chosen]
        return torch.stack(self.read(hidden, members))

    def read(self, hidden: Tensor, members: Iterable[nn.Module]) -> list[Tensor]:
        """Each member's logits."""
        raise NotImplementedError


class LinearBank(Bank):
    """Batch norm without affine of the vector that `pool` makes, and a linear classifier."""

    def __init__(
        self, pool: Pool, width: int, classes: int, count: int = 1, world: World = ALONE
    ) -> None:
        super().__init__(nn.Linear(width, classes), count)
        self.pool = pool
        self.norm = BatchNorm(width, world)

    def read(self, hidden: Tensor, members: Iterable[nn.Module]) -> list[Tensor]:
        x = self.norm(self.pool(hidden).float())
        return [member(x) for member in members]


class AttentionBank(Bank):
    """AIM's attention pooling, after a batch norm without affine over the channels."""

    def __init__(
        self, width: int, heads: int, classes: int, count: int = 1, world: World = ALONE
    ) -> None:
        super().__init__(AttentionProbe(width, heads, classes), count)
        self.norm = BatchNorm(width, world)

    def read(self, hidden: Tensor, members: Iterable[nn.Module]) -> list[Tensor]:
        return attend(self.norm(hidden.flatten(0, 1)).view(hidden.shape), members)


class CrossBank(Bank):
    """V-JEPA's cross-attention and MLP, after a layer norm."""

    def __init__(self, width: int, heads: int, classes: int, count: int = 1) -> None:
        super().__init__(_CrossProbe(width, heads, classes), count)

    def read(self, hidden: Tensor, members: Iterable[nn.Module]) -> list[Tensor]:
        return attend(F.layer_norm(hidden, hidden.shape[-1:]), members)


def build_bank(
    kind: ProbeKind, width: int, heads: int, classes: int, count: int, world: World = ALONE
) -> Bank:
    """`count` probes of a kind on states of `width` channels."""
    if kind == "attention":
        return AttentionBank(width, heads, classes, count, world)
    if kind == "cross":
        return CrossBank(width, heads, classes, count)
    return LinearBank(POOLS[kind], width, classes, count, world)


class AttentionProbe(nn.Module):
    """AIM's head (apple/ml-aim: aim-v1/aim/v1/torch/layers.py).

    Keys and values linear without bias; one learned query for each head; softmax(q k / sqrt(d)) v;
    a linear classifier without bias.
    """

    def __init__(self, width: int, heads: int, classes: int) -> None:
        super().__init__()
        self.k = nn.Linear(width, width, bias=False)
        self.v = nn.Linear(width, width, bias=False)
        self.query = nn.Parameter(0.02 * torch.randn(heads, width // heads))
        self.classifier = nn.Linear(width, classes, bias=False)

    def columns(self) -> Float[Tensor, "h c"]:
        return _fold(self.query, self.k.weight)

    def forward(self, pooled: Float[Tensor, "b h c"]) -> Float[Tensor, "b classes"]:
        return self.classifier(_values(pooled, self.v.weight))


class _CrossProbe(nn.Module):
    """V-JEPA's head (facebookresearch/jepa: src/models/attentive_pooler.py).

    `q + attention(q, norm(x))`, in which the output projection is not applied; `q + mlp(norm(q))`;
    a linear classifier. A bias of the keys adds the same to all scores, and is left out.
    """

    def __init__(self, width: int, heads: int, classes: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.empty(width))
        # The affine part of the norm before the keys and values.
        self.scale = nn.Parameter(torch.ones(width))
        self.shift = nn.Parameter(torch.zeros(width))
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width, bias=False)
        self.v = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        self.classifier = nn.Linear(width, classes)
        for name, parameter in self.named_parameters():
            if name == "query" or parameter.ndim == 2:
                nn.init.trunc_normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        with torch.no_grad():
            self.fc2.weight.div_(2**0.5)

    def columns(self) -> Float[Tensor, "h c"]:
        # The shift adds the same to all scores.
        return self.scale * _fold(self.q(self.query).view(self.heads, -1), self.k.weight)

    def forward(self, pooled: Float[Tensor, "b h c"]) -> Float[Tensor, "b classes"]:
        values = _values(pooled * self.scale + self.shift, self.v.weight)
        x = self.query + values + self.v.bias
        x = x + self.fc2(F.gelu(self.fc1(self.norm(x))))
        return self.classifier(x)


def attend(hidden: Float[Tensor, "b t c"], members: Iterable[nn.Module]) -> list[Tensor]:
    """Each member's logits of what its heads pool.

    What is as large as the states is in their precision, all else in fp32.
    """
    columns = torch.stack([member.columns() for member in members])  # type: ignore[operator]
    scores = hidden.flatten(0, 1) @ columns.flatten(0, 1).T.to(hidden.dtype)
    weights = scores.view(*hidden.shape[:2], -1).softmax(1, torch.float32).to(hidden.dtype)
    pooled = (weights.mT @ hidden).float().unflatten(1, columns.shape[:2])
    return [member(own) for member, own in zip(members, pooled.unbind(1), strict=True)]


# Both products leave a gradient in the layout of the weights: with a grid of probes a copy counts.


def _fold(query: Float[Tensor, "h d"], k: Float[Tensor, "c c"]) -> Float[Tensor, "h c"]:
    """How the channels weigh in the scores of each head."""
    heads, width = query.shape
    return torch.bmm(query[:, None] * width**-0.5, k.view(heads, width, -1))[:, 0]


def _values(pooled: Float[Tensor, "b h c"], v: Float[Tensor, "c c"]) -> Float[Tensor, "b c"]:
    """The value projection, each head's part of it of what the head has pooled."""
    values = torch.bmm(v.view(pooled.shape[1], -1, v.shape[1]), pooled.permute(1, 2, 0))
    return values.flatten(0, 1).T
