"""What is kept of a file: which frames, which squares of them, at what size; and at what cost."""

from dataclasses import dataclass
from math import exp, log, sqrt
from typing import Literal, NamedTuple

import numpy as np

from toto.errors import UserError

# How often a random box is drawn before the middle of the picture is taken: torchvision's number.
_TRIES = 10


class Box(NamedTuple):
    """A part of a picture, in pixels."""

    left: float
    top: float
    width: float
    height: float


class Try(NamedTuple):
    """One draw of a random box."""

    area: float
    """part of the picture's area"""
    ratio: float
    """width over height"""
    x: float
    """where it lies in what is left of the width, 0 to 1"""
    y: float


class Place(NamedTuple):
    """Which part of its pictures an item keeps: a square of the shorter side, a random box, or all.

    What is no square is squeezed into one.
    """

    along: float = 0.5
    """where along the longer side the square lies, 0 to 1"""
    mirrored: bool = False
    """whether left and right change sides"""
    tries: tuple[Try, ...] = ()
    """draws of a box; the first that fits counts, else the middle of the picture"""
    ratios: tuple[float, float] = (1.0, 1.0)
    """bounds of a box's ratio"""
    whole: bool = False
    """whether nothing is left out"""

    def box(self, width: int, height: int) -> Box:
        """The part of an upright picture of width x height."""
        if self.whole:
            return Box(0, 0, width, height)
        if not self.tries:
            side = min(width, height)
            return Box((width - side) * self.along, (height - side) * self.along, side, side)
        for area, ratio, x, y in self.tries:
            wide = round(sqrt(area * width * height * ratio))
            high = round(sqrt(area * width * height / ratio))
            if 0 < wide <= width and 0 < high <= height:
                # Every whole pixel is as likely.
                return Box(int((width - wide + 1) * x), int((height - high + 1) * y), wide, high)
        narrow, broad = self.ratios
        wide = min(width, round(height * broad))
        high = min(height, round(width / narrow))
        return Box((width - wide) // 2, (height - high) // 2, wide, high)


CENTRE, WHOLE = Place(), Place(whole=True)


@dataclass(frozen=True)
class View:
    """Which frames of a file are kept, and at what size.

    Frames are kept at even times, every `stride`-th at the file's own frame rate (average, where
    it varies) or at `rate`; with `step` "index", every `stride`-th decoded frame whatever its
    time. The first is always kept. Its short side is resized to `size`, and the square in the
    middle is cut out, or `crops` squares; or `crops` boxes of random area and shape become squares
    (torchvision's RandomResizedCrop); or all of it does, `whole`.

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
    """squares of each item, the same for all its frames; 0: one in the middle"""
    spread: Literal["random", "even"] = "random"
    """where the crops lie: at random places, or evenly from one end to the other"""
    scale: tuple[float, float] | None = None
    """crops are boxes of a random part of the area between these, like 0.08 1"""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """bounds of the width of such a box over its height"""
    flip: bool = False
    """each crop of an item is mirrored with probability one half"""
    seed: int = 0
    """of all that is random"""
    whole: bool = False
    """nothing is cut off: both sides are resized to size"""

    def __post_init__(self) -> None:
        for name, least in (("stride", 1), ("size", 1), ("crops", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} {getattr(self, name)}: must be {least} or more")
        if self.rate is not None and not 0 < self.rate <= 1000:
            raise UserError(f"rate {self.rate}: more than 0, at most 1000 frames a second")
        if self.rate is not None and self.step == "index":
            raise UserError(f"rate {self.rate}: decoded frames are counted without one")

        of_crops = self.scale is not None or self.flip or self.spread == "even"
        if of_crops and not self.crops:
            raise UserError("scale, flip and spread are of crops: say how many with crops")
        if self.spread == "even" and self.scale is not None:
            raise UserError("crops that are spread evenly are squares: give no scale")
        if self.whole and self.crops:
            raise UserError(f"crops {self.crops}: none of a picture that is kept whole")
        if self.scale is not None and not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise UserError(f"scale {self.scale}: two numbers from 0 to 1, the smaller one first")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise UserError(f"ratio {self.ratio}: two positive numbers, the smaller one first")

    def without_crops(self) -> "View":
        """The same frames at the same size, of the square in the middle or whole."""
        return View(self.stride, self.size, self.step, self.rate, whole=self.whole)

    @property
    def undrawn(self) -> Place:
        """What is kept where nothing is drawn."""
        return WHOLE if self.whole else CENTRE

    def kept_rate(self, fps: float | None) -> float | None:
        """Kept frames a second of a file with `fps` of its own; None where they are unknown."""
        counted = self.rate or fps
        return counted / self.stride if counted else None

    def places(self, key: int) -> tuple[Place, ...]:
        """Which parts of an item are kept; `key` is its hash."""
        if not self.crops:
            return (self.undrawn,)
        # uint32 seeds and uniform doubles of PCG64 are the same on every machine.
        words = np.random.SeedSequence([self.seed, key])
        random = np.random.Generator(np.random.PCG64(words))
        along = random.random(self.crops).tolist()
        if self.spread == "even":
            along = np.linspace(0, 1, self.crops).tolist() if self.crops > 1 else [0.5]
        mirrored = [self.flip and draw < 0.5 for draw in random.random(self.crops).tolist()]
        return tuple(
            Place(place, flipped, self._tries(random), self.ratio)
            for place, flipped in zip(along, mirrored, strict=True)
        )

    def _tries(self, random: np.random.Generator) -> tuple[Try, ...]:
        if self.scale is None:
            return ()
        low, high = self.scale
        narrow, wide = map(log, self.ratio)
        return tuple(
            Try(low + (high - low) * area, exp(narrow + (wide - narrow) * ratio), x, y)
            for area, ratio, x, y in random.random((_TRIES, 4)).tolist()
        )


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
