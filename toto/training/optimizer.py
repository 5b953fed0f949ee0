"""Optimizers from their configuration."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from toto.training.config import AdamW
from toto.training.device import blocks_of
from toto.training.muon import Muon

_Groups = dict[tuple[bool, float], list[nn.Parameter]]


def build_optimizers(
    module: nn.Module,
    config: AdamW,
    factor: Callable[[str], float] = lambda name: 1.0,
    decays_alike: bool = True,
    muon: bool = False,
) -> list[torch.optim.Optimizer]:
    """AdamW over the trainable parameters of `module`; only matrices decay.

    `factor` gives a parameter's learning rate over the schedule's, by its name in `module`. It is
    its group's "factor", by which whoever sets "lr" multiplies; what a step decays does not depend
    on it, unless `decays_alike` is false. With `muon` the blocks' matrices are a Muon's.
    """
    of_blocks = {p for block in blocks_of(module) for p in block.parameters() if p.ndim == 2}
    adamw: _Groups = {}
    matrices: _Groups = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            groups = matrices if muon and parameter in of_blocks else adamw
            groups.setdefault((parameter.ndim >= 2, factor(name)), []).append(parameter)

    def settings(groups: _Groups) -> list[dict[str, Any]]:
        return [
            {
                "params": groups[decays, times],
                "factor": times,
                "lr": config.learning_rate * times,
                "weight_decay": config.weight_decay / (times if decays_alike else 1.0)
                if decays
                else 0.0,
            }
            for decays, times in sorted(groups, reverse=True)
        ]

    first = torch.optim.AdamW(settings(adamw), betas=config.betas, eps=config.eps, fused=True)
    return [first, Muon(settings(matrices))] if muon else [first]


def gradient_norm(module: nn.Module) -> torch.Tensor:
    """The norm of all gradients."""
    return nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None])


def clip_gradients(module: nn.Module, norm: float | None) -> torch.Tensor:
    """Scale the gradients so that their norm is at most `norm`; returns the norm before."""
    parameters = [p for p in module.parameters() if p.grad is not None]
    return nn.utils.clip_grad_norm_(parameters, float("inf") if norm is None else norm)
