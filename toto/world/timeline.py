"""Who moves when in CATER, and inside what (SPECS 8.4): drawn round after round, never undone.

Places are multiples of 1/1024 and tests use sums and products alone, so that a seed gives the same
timeline on every machine.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64

from toto.world.scenes import Shape

Move = Literal["_slide", "_pick_place", "_rotate", "_contain", "_no_op"]

PLANE = 3.0  # solids stand in [-3, 3]^2
GAP = 0.25  # between the spheres around two solids, in world units
LIFT = 2.0
_GRID = 1024
_TRIES = 100
_AT_ONCE = 8  # targets that one test takes: few of them fail
_ROUND = 30  # a round begins only if so many frames are left


@dataclass(frozen=True)
class Movement:
    """One movement of one solid, from frame `start` to frame `end`, both included."""

    action: Move
    other: int | None  # the solid that is contained
    start: int
    end: int


@dataclass(frozen=True)
class _Way:
    """A way from one place: how far along it and how high a solid is, from its start to the end."""

    start: int
    end: int
    share: Float64[np.ndarray, " steps"]
    lift: Float64[np.ndarray, " steps"]

    def paths(
        self, place: Float64[np.ndarray, "2"], targets: Float64[np.ndarray, "tries 2"]
    ) -> Float64[np.ndarray, "tries steps 3"]:
        flat = place + self.share[:, None] * (targets - place)[:, None]
        lift = np.broadcast_to(self.lift[:, None], (*flat.shape[:2], 1))
        return np.concatenate([flat, lift], 2)


def grid(
    rng: np.random.Generator, most: float, shape: tuple[int, ...]
) -> Float64[np.ndarray, "*n"]:
    """Even draws from the multiples of 1/1024 in [-most, most]."""
    limit = round(most * _GRID)
    return np.asarray(rng.integers(-limit, limit + 1, shape) / _GRID)


class Timeline:
    """The solids of one video over time; `play` fills it.

    `places` holds x, y and how far above its rest a solid is; `tips` its quarter turns about its
    own second axis; `covered` whether it is inside another. `groups` are the solids that are
    inside each other at last, the outermost first.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        shapes: tuple[Shape, ...],
        radii: Float64[np.ndarray, " solids"],
        places: Float64[np.ndarray, "solids 2"],
        frames: int,
    ):
        self.rng, self.shapes, self.radii = rng, shapes, radii
        start = np.concatenate([places, np.zeros((len(places), 1))], 1)
        self.places = np.repeat(start[:, None], frames, 1)
        self.tips = np.zeros((len(places), frames))
        self.covered = np.zeros((len(places), frames), bool)
        self.groups = [[i] for i in range(len(places))]
        self.movements: list[list[Movement]] = [[] for _ in places]
        self.last = frames - 1

    def play(self, most: int | None) -> None:
        """Fill the timeline, with at most `most` groups moving in a round (None: any number)."""
        now, most = 0, len(self.groups) if most is None else most
        while now <= self.last - _ROUND:
            contains = self.rng.integers(2) == 1
            end = self._contain(now, most) if contains else self._round(now, most, None)
            if end is not None:
                now = end + 1

    def _round(self, now: int, most: int, excluded: list[int] | None) -> int:
        """Let up to `most` groups move, each for a while that begins soon; the last one's end."""
        order = self.rng.permutation(len(self.groups))
        chosen = [g for g in (self.groups[i] for i in order) if g is not excluded]
        return max((self._act(now, group) for group in chosen[:most]), default=now)

    def _contain(self, now: int, most: int) -> int | None:
        """Put a cone over a smaller solid while others move; None if no cone can."""
        for first, second in self.rng.integers(len(self.groups), size=(_TRIES, 2)):
            (cone, *more), inside = self.groups[first], self.groups[second]
            if first == second or more or not self._fits(cone, inside[0]):
                continue
            way = self._pick_place(*self._span(now))
            target = self.places[inside[0], way.start, None, :2]
            path = way.paths(self.places[cone, way.start, :2], target)
            if not self._free([cone], self._others([cone, *inside]), path, way.start)[0]:
                continue
            self._go([cone], path[0], way, "_contain", inside[0])
            self.covered[inside, way.end :] = True
            merged = [cone, *inside]
            gone = (int(first), int(second))
            self.groups = [g for i, g in enumerate(self.groups) if i not in gone] + [merged]
            return max(way.end, self._round(now, most - 1, merged))
        return None

    def _fits(self, cone: int, inside: int) -> bool:
        over = self.shapes[cone] == "cone" and self.radii[cone] > self.radii[inside]
        return bool(over) and self.shapes[inside] in ("cone", "sphere", "spl")

    def _act(self, now: int, group: list[int]) -> int:
        """Let one group do something; the frame in which it ends."""
        start, end = self._span(now)
        kinds = ["slide", "pick-place"]
        if len(group) == 1 and self.shapes[group[0]] not in ("cone", "sphere"):
            kinds.append("rotate")
        kind = kinds[self.rng.integers(len(kinds))]
        if kind == "rotate":
            self.tips[group[0], start:] += self._slide(start, end).share
            self._record(group, "_rotate", start, end)
        elif kind == "slide":
            way = self._slide(start, end)
            path = self._find(group, way)
            if path is None:
                self._record(group, "_no_op", start, end)
            else:
                self._go(group, path, way, "_slide")
        else:
            self._take_off(group, self._pick_place(start, end))
        return end

    def _take_off(self, group: list[int], way: _Way) -> None:
        """Pick up the outermost of a group, which leaves the others, and place it elsewhere."""
        outermost, *others = group
        path = self._find([outermost], way, others)
        if path is None:
            self._record(group, "_no_op", way.start, way.end)
            return
        self._go([outermost], path, way, "_pick_place")
        if others:
            self._record(others, "_no_op", way.start, way.end)
            self.covered[others[0], way.start + 1 :] = False
            self.groups = [g for g in self.groups if g is not group] + [[outermost], others]

    def _find(
        self, who: list[int], way: _Way, inside: list[int] | None = None
    ) -> Float64[np.ndarray, "steps 3"] | None:
        """The first of some random ways that touches nothing; at its end not `inside` either."""
        inside = inside or []
        others = self._others([*who, *inside])
        targets = grid(self.rng, PLANE, (_TRIES, 2))
        ends = np.concatenate([targets, np.zeros((_TRIES, 1))], 1)[:, None]
        targets = targets[self._free(who, others + inside, ends, self.last)]
        for some in range(0, len(targets), _AT_ONCE):
            paths = way.paths(self.places[who[0], way.start, :2], targets[some : some + _AT_ONCE])
            free = self._free(who, others, paths, way.start)
            if free.any():
                return np.asarray(paths[free.argmax()])
        return None

    def _free(
        self,
        who: list[int],
        others: list[int],
        paths: Float64[np.ndarray, "tries steps 3"],
        start: int,
    ) -> Bool[np.ndarray, " tries"]:
        """Which paths from frame `start` on keep the spheres around `who` and `others` apart."""
        free = np.ones(len(paths), bool)
        x, y, lift = np.moveaxis(self.places[others, start:].transpose(2, 1, 0)[:, None], 0, 0)
        for solid in who:
            reach = self.radii[solid] + self.radii[others] + GAP
            across, along = paths[..., 0, None] - x, paths[..., 1, None] - y
            # Each sphere stands on the floor: its centre is a radius above it.
            above = (paths[..., 2, None] + self.radii[solid]) - (lift + self.radii[others])
            apart = across * across + along * along + above * above >= reach * reach
            free &= apart.all((1, 2))
        return free

    def _go(
        self,
        who: list[int],
        path: Float64[np.ndarray, "steps 3"],
        way: _Way,
        action: Move,
        other: int | None = None,
    ) -> None:
        self.places[who, way.start :] = path
        self._record(who, action, way.start, way.end, other)

    def _record(
        self, who: list[int], action: Move, start: int, end: int, other: int | None = None
    ) -> None:
        for solid in who:
            self.movements[solid].append(Movement(action, other, start, end))

    def _others(self, group: list[int]) -> list[int]:
        return [i for i in range(len(self.shapes)) if i not in group]

    def _span(self, now: int) -> tuple[int, int]:
        start = now + int(self.rng.integers(11))
        return start, min(start + int(self.rng.integers(20, 31)), self.last)

    def _slide(self, start: int, end: int) -> _Way:
        steps = np.arange(self.last + 1 - start)
        share = np.minimum(steps / (end - start), 1.0)
        return _Way(start, end, share, np.zeros(len(steps)))

    def _pick_place(self, start: int, end: int) -> _Way:
        """Up in a fifth of the time, across, and down in the last fifth."""
        length = end - start
        steps = np.arange(self.last + 1 - start)
        up, down = length // 5, 4 * length // 5
        share = np.clip((steps - up) / (down - up), 0.0, 1.0)
        lift = np.minimum(steps / up, (length - steps) / (length - down))
        return _Way(start, end, share, LIFT * np.clip(lift, 0.0, 1.0))
