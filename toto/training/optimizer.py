"""AdamW from its configuration."""

import torch
from torch import nn

from toto.training.config import AdamW


def build_optimizer(module: nn.Module, config: AdamW) -> torch.optim.AdamW:
    """AdamW over the trainable parameters of `module`; only matrices decay."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=config.betas, eps=config.eps, fused=True
    )


def clip_gradients(module: nn.Module, norm: float | None) -> torch.Tensor:
    """Scale the gradients so that their norm is at most `norm`; returns the norm before."""
    parameters = [p for p in module.parameters() if p.grad is not None]
    return nn.utils.clip_grad_norm_(parameters, float("inf") if norm is None else norm)
