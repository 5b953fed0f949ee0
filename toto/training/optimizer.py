"""AdamW from its configuration."""

from collections.abc import Callable

import torch
from torch import nn

from toto.training.config import AdamW


def build_optimizer(
    module: nn.Module,
    config: AdamW,
    factor: Callable[[str], float] = lambda name: 1.0,
    decays_alike: bool = True,
) -> torch.optim.AdamW:
    """AdamW over the trainable parameters of `module`; only matrices decay.

    `factor` gives a parameter's learning rate over the schedule's, by its name in `module`. It is
    its group's "factor", by which whoever sets "lr" multiplies; what a step decays does not depend
    on it, unless `decays_alike` is false.
    """
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((parameter.ndim >= 2, factor(name)), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": groups[decays, times],
                "factor": times,
                "lr": config.learning_rate * times,
                "weight_decay": config.weight_decay / (times if decays_alike else 1.0)
                if decays
                else 0.0,
            }
            for decays, times in sorted(groups, reverse=True)
        ],
        betas=config.betas,
        eps=config.eps,
        fused=True,
    )


def gradient_norm(module: nn.Module) -> torch.Tensor:
    """The norm of all gradients."""
    return nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None])


def clip_gradients(module: nn.Module, norm: float | None) -> torch.Tensor:
    """Scale the gradients so that their norm is at most `norm`; returns the norm before."""
    parameters = [p for p in module.parameters() if p.grad is not None]
    return nn.utils.clip_grad_norm_(parameters, float("inf") if norm is None else norm)
