"""Muon, whose steps are orthogonal matrices (Jordan et al. 2024; Liu et al. 2025, section 2)."""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from toto.training.parallel import all_parts, own_part

# Of the quintic that is iterated: they take singular values of 0.001 to 1 to about 1 in five
# rounds, exactly 1 being of no use (Jordan et al. 2024).
_QUINTIC = 3.4445, -4.7750, 2.0315
_ROUNDS = 5
_MOMENTUM = 0.95


class Muon(torch.optim.Optimizer):
    """Each step of a matrix is its gradients' running mean with all singular values about 1.

    It is scaled so that an entry changes as much as by AdamW (Liu et al. 2025, equation 4), whose
    learning rate and weight decay groups therefore have. Of a divided matrix the mean is brought
    together for it. Where `found_inf` is not 0 nothing changes, and the host need not know.
    """

    found_inf: Tensor | None = None

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for matrix in group["params"]:
                if (gradient := matrix.grad) is not None:
                    self._step(matrix, gradient, group)

    def _step(self, matrix: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[matrix]
        if not state:
            state["mean"] = torch.zeros_like(matrix)
        values: tuple[Tensor, ...] = matrix, state["mean"], gradient
        mine, mean, gradient = (v.to_local() if isinstance(v, DTensor) else v for v in values)
        good = torch.ones((), device=mine.device)
        if self.found_inf is not None:
            good = 1 - self.found_inf
            gradient = torch.where(good > 0, gradient, mean)
        mean.lerp_(gradient, 1 - _MOMENTUM)
        ahead = gradient.lerp(mean, _MOMENTUM)
        direction = own_part(orthogonal(all_parts(ahead, matrix)), matrix)
        rate = group["lr"] * 0.2 * max(matrix.shape) ** 0.5
        mine.mul_(1 - group["lr"] * group["weight_decay"] * good).sub_(rate * good * direction)


def orthogonal(matrix: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
    """About U V of its singular value decomposition U S V; under autocast by products of bf16."""
    a, b, c = _QUINTIC
    x = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(_ROUNDS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if x.shape == matrix.shape else x.T
