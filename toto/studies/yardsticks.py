"""What a model's loss must be compared with: codes predicted by counting alone."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer

# Weights of the previous frame's code against the unigram that are tried, best on training codes.
_WEIGHTS = np.linspace(0, 0.99, 100)

Clip = Integer[np.ndarray, "_ rows cols"]
Nats = Float[np.ndarray, "_ rows cols"]


@dataclass(frozen=True)
class Yardsticks:
    """Losses in nats per code, over the same positions of the same clips."""

    uniform: float
    unigram: float
    previous_frame: float
    """the code given the code at the same place one frame before, mixed with the unigram; first
    frames by the unigram"""


def measure(
    train: list[Clip], test: list[Clip], codebook_size: int, first_frame: int = 0
) -> Yardsticks:
    """Mean losses of what `predict` predicts, from `first_frame` of each clip on."""
    unigram, previous = (
        float(np.concatenate([nats[first_frame:].ravel() for nats in every]).mean())
        for every in predict(train, test, codebook_size)
    )
    return Yardsticks(float(np.log(codebook_size)), unigram, previous)


def predict(
    train: list[Clip], test: list[Clip], codebook_size: int
) -> tuple[list[Nats], list[Nats]]:
    """Count codes in `train` and predict those of `test`: by the unigram, and by the frame before.

    Counts have one added to each code. The mixing weight is chosen on clips of `train` that are
    left out of its counts. What is returned are negative log probabilities.
    """
    held_out, counted = train[::5], [clip for i, clip in enumerate(train) if i % 5]
    weight = 0.0
    if counted and held_out:
        model = _Counts(counted, codebook_size)
        totals = [sum(model.nats(clip, w)[1:].sum() for clip in held_out) for w in _WEIGHTS]
        weight = float(_WEIGHTS[int(np.argmin(totals))])
    model = _Counts(train, codebook_size)
    unigram, previous = ([model.nats(clip, w) for clip in test] for w in (0.0, weight))
    return unigram, previous


class _Counts:
    """Code frequencies, alone and given the code at the same place one frame before."""

    def __init__(self, clips: list[Clip], codebook_size: int) -> None:
        unigram = np.ones(codebook_size)
        keys = []
        for clip in clips:
            unigram += np.bincount(clip.ravel(), minlength=codebook_size)
            keys.append((clip[:-1].astype(np.int64) * codebook_size + clip[1:]).ravel())
        self.size = codebook_size
        self.unigram = unigram / unigram.sum()
        self.pairs, self.counts = np.unique(np.concatenate(keys), return_counts=True)
        totals = np.zeros(codebook_size)
        np.add.at(totals, self.pairs // codebook_size, self.counts)
        self.totals = totals

    def nats(self, clip: Clip, weight: float) -> Float[np.ndarray, "_ rows cols"]:
        """Negative log probability of each code."""
        probability = self.unigram[clip]
        if weight and len(clip) > 1 and len(self.pairs):
            before, now = clip[:-1].astype(np.int64), clip[1:]
            keys = before * self.size + now
            places = np.searchsorted(self.pairs, keys).clip(max=len(self.pairs) - 1)
            counts = np.where(self.pairs[places] == keys, self.counts[places], 0)
            totals = self.totals[before]
            seen = np.divide(counts, totals, out=np.zeros_like(probability[1:]), where=totals > 0)
            # A code that never came before has no pairs: the unigram alone speaks.
            mix = np.where(totals > 0, weight, 0.0)
            probability[1:] = mix * seen + (1 - mix) * probability[1:]
        return -np.log(probability)
