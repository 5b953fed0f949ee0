"""How fast a GPU trains: what the benchmarks measured, and what is assumed from it."""

from dataclasses import dataclass
from math import log10

from toto.models.cost import gpu_named, training_flops
from toto.models.sizes import BASE, LARGE, LlamaSize
from toto.tokens.vocabulary import Layout, Vocabulary
from toto.training.config import Pretrain


@dataclass(frozen=True)
class Measured:
    """Tokens per second of one GPU, in bf16."""

    name: str
    size: LlamaSize
    gpu: str
    compiled: bool
    tokens_per_second: int


# What benchmarks/pretrain.py measured, on clips of 16 frames of 16x16 codes of 8,192. Here because
# an installed package has no benchmarks; a test compares.
SOURCE = "benchmarks/results/gpu-pretrain-{}.json"
DATE = "2026-11-22"
MICRO_BATCH = 16
FRAMES = 16
VOCABULARY = Vocabulary(8192, 16, 16)
MEASURED = (
    Measured("base", BASE, "h100", compiled=True, tokens_per_second=323_225),
    Measured("base", BASE, "h100", compiled=False, tokens_per_second=285_068),
    Measured("large", LARGE, "h100", compiled=True, tokens_per_second=171_148),
    Measured("large", LARGE, "h100", compiled=False, tokens_per_second=151_941),
)

# With so many times the operations of the nearest measured model, or so many times fewer, a model
# is another kind of load.
FAR = 4


@dataclass(frozen=True)
class Speed:
    """How fast one GPU trains, and which measurement says so."""

    compiled: bool
    tokens_per_second: float
    basis: Measured
    measured: bool
    """whether the basis is this very model on this very GPU"""
    mfu: float
    """part of the peak that the basis reached, attention counted causal"""
    times: float
    """operations on a token over those of the basis"""


def speed_of(recipe: Pretrain, layout: Layout, flops: float, gpu: str, compiled: bool) -> Speed:
    """The measured speed; else that at the MFU of the measured model nearest in operations.

    `flops` are the causal operations of a token: the work that is done.
    """
    known = [measured for measured in MEASURED if measured.compiled == compiled]
    basis = min(known, key=lambda m: (abs(log10(_flops(m) / flops)), m.gpu != gpu))
    mfu = basis.tokens_per_second * _flops(basis) / gpu_named(basis.gpu).peak
    measured = (
        basis.gpu == gpu
        and _shape(basis.size) == _shape(recipe.model)
        and (layout, recipe.frames) == (VOCABULARY, FRAMES)
        and not recipe.curriculum
        and not recipe.loop.recompute
    )
    # A forward pass is a third of a block's operations.
    again = 1 + recipe.loop.recompute / 3
    return Speed(
        compiled=compiled,
        tokens_per_second=float(basis.tokens_per_second)
        if measured
        else mfu * gpu_named(gpu).peak / flops / again,
        basis=basis,
        measured=measured,
        mfu=mfu,
        times=flops / _flops(basis),
    )


def known_by(asked: Speed, other: Speed) -> list[str]:
    """Where two speeds are known from, eager and compiled, in lines."""
    basis = asked.basis
    lines = [
        f"  measured of {basis.name} on one {basis.gpu} at micro-batch {MICRO_BATCH}: MFU (causal) "
        f"{asked.mfu:.1%} and {other.mfu:.1%}",
        f"  ({DATE}, {SOURCE.format(basis.name)})"
        + ("" if asked.measured else "; assumed: the same MFU here"),
    ]
    if not 1 / FAR <= asked.times <= FAR:
        lines.append(
            f"  a guess: a token takes {asked.times:.2g} times the operations of {basis.name}"
        )
    return lines


def _flops(measured: Measured) -> int:
    positions = FRAMES * VOCABULARY.frame
    return training_flops(measured.size, positions, VOCABULARY.size).causal


def _shape(size: LlamaSize) -> tuple[int, ...]:
    """What of a size decides the speed."""
    return size.width, size.layers, size.heads, size.mlp_width
