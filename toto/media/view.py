"""What is kept of a file: which frames, which squares of them, at what size; and at what cost."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from toto.errors import UserError

CENTRE = 0.5


@dataclass(frozen=True)
class View:
    """Which frames of a file are kept, and at what size.

    Frames are kept at even times, every `stride`-th at the file's own frame rate (average, where
    it varies) or at `rate`; with `step` "index", every `stride`-th decoded frame whatever its
    time. The first is always kept. Its short side is resized to `size`, and the square in the
    middle is cut out, or `crops` squares at random places.

    Raises:
        UserError: a number is out of range.
    """

    stride: int = 4
    """every stride-th frame of a video is kept"""
    size: int = 128
    """side of the squares in pixels"""
    step: Literal["time", "index"] = "time"
    """what the stride counts: frames at even times, or decoded frames"""
    rate: float | None = None
    """frames a second that the stride counts; by default each file's own"""
    crops: int = 0
    """squares at random places of each item, the same for all its frames; 0: one in the middle"""
    seed: int = 0
    """of the random places"""

    def __post_init__(self) -> None:
        for name, least in (("stride", 1), ("size", 1), ("crops", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} {getattr(self, name)}: must be {least} or more")
        if self.rate is not None and not 0 < self.rate <= 1000:
            raise UserError(f"rate {self.rate}: more than 0, at most 1000 frames a second")
        if self.rate is not None and self.step == "index":
            raise UserError(f"rate {self.rate}: decoded frames are counted without one")

    def places(self, key: int) -> tuple[float, ...]:
        """Where along the longer side the squares of an item lie, 0 to 1; `key` is its hash."""
        if not self.crops:
            return (CENTRE,)
        # uint32 seeds and uniform doubles of PCG64 are the same on every machine.
        words = np.random.SeedSequence([self.seed, key])
        return tuple(np.random.Generator(np.random.PCG64(words)).random(self.crops).tolist())


@dataclass(frozen=True)
class Limits:
    """What one file may take before it is given up.

    Raises:
        UserError: a number is out of range.
    """

    seconds: float = 120.0
    """without a single frame"""
    memory: float = 4.0
    """GiB of address space, beyond what a worker starts with (Linux)"""

    def __post_init__(self) -> None:
        for name, most in (("seconds", 1e9), ("memory", 1e9)):
            if not 0 < getattr(self, name) <= most:
                raise UserError(f"{name} {getattr(self, name)}: more than 0, at most {most:g}")


LIMITS = Limits()


def box(width: int, height: int, place: float) -> tuple[float, float, int]:
    """Left, top and side of the square at `place`, in pixels of a width x height picture."""
    side = min(width, height)
    return (width - side) * place, (height - side) * place, side
