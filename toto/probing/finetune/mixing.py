"""Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019) of clips that are codes.

Of each step's clips the first is mixed with the last, the second with the last but one, ...: pairs
are random, for the order of the clips is.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Mix:
    """How each clip of a step is mixed with its partner."""

    embedding: Float[np.ndarray, " b"]
    """share of its own embeddings: 1 but for mixup"""
    boxes: Bool[np.ndarray, "b rows cols"]
    """whose codes are the partner's, in all frames"""
    label: Float[np.ndarray, " b"]
    """share of its own label"""


def draw_mix(
    random: np.random.Generator,
    count: int,
    grid: tuple[int, int],
    mixup: float,
    cutmix: float,
) -> Mix:
    """Each clip gets mixup or CutMix, with even chances where both have an alpha above 0.

    The share of the own label is drawn from Beta(alpha, alpha) and, where a box of whole codes cut
    off at the border has another area, corrected to it (timm: data/mixup.py).
    """
    share = np.ones(count)
    cut = random.random(count) < (0.5 if mixup else 1.0) * (cutmix > 0)
    for which, alpha in ((~cut, mixup), (cut, cutmix)):
        if alpha:
            share[which] = random.beta(alpha, alpha, count)[which]
    sides = np.sqrt(1 - share) * cut
    inside = []
    for length in grid:
        span = np.rint(sides * length).astype(np.int64)
        first = random.integers(length, size=count) - span // 2
        places = np.arange(length)
        inside.append((places >= first[:, None]) & (places < (first + span)[:, None]))
    boxes = inside[0][:, :, None] & inside[1][:, None]
    return Mix(
        embedding=np.where(cut, 1.0, share),
        boxes=boxes,
        label=np.where(cut, 1 - boxes.mean((1, 2)), share),
    )


def cut_and_paste(
    tokens: Int[Tensor, "b t"], others: Int[Tensor, "b t"], boxes: Bool[np.ndarray, "b rows cols"]
) -> Int[Tensor, "b t"]:
    """A start token and whole frames, with the codes of `others` in the boxes of every frame."""
    box = torch.from_numpy(boxes).flatten(1)
    frames = (tokens.shape[1] - 1) // box.shape[1]
    return torch.where(F.pad(box.repeat(1, frames), (1, 0)), others, tokens)


def mixed_targets(
    labels: Int[Tensor, " b"],
    others: Int[Tensor, " b"],
    share: Float[Tensor, " b"],
    classes: int,
    smoothing: float,
) -> Float[Tensor, "b classes"]:
    """What each clip's class is, as probabilities: its own and its partner's, smoothed."""
    own, its = (F.one_hot(x, classes).to(share.dtype) for x in (labels, others))
    mixed = share[:, None] * own + (1 - share[:, None]) * its
    return (1 - smoothing) * mixed + smoothing / classes
