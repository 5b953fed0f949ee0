"""CATER's three tasks (SPECS 8.1, 8.2, 8.4): classes, and a scene's labels from its record.

A record is the scene's JSON: `objects` with `shape`, `instance` and `locations`, and `movements`
per instance as [action, other, start, end].
"""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import permutations
from typing import Any

Record = Mapping[str, Any]

# In the order of CATER's lists.
ATOMIC: tuple[tuple[str, str], ...] = (
    ("sphere", "_slide"),
    ("sphere", "_pick_place"),
    ("spl", "_slide"),
    ("spl", "_pick_place"),
    ("spl", "_rotate"),
    ("cylinder", "_pick_place"),
    ("cylinder", "_slide"),
    ("cylinder", "_rotate"),
    ("cube", "_slide"),
    ("cube", "_pick_place"),
    ("cube", "_rotate"),
    ("cone", "_contain"),
    ("cone", "_pick_place"),
    ("cone", "_slide"),
)
_ORDERS = ("before", "during", "after")
_REVERSE = {"before": "after", "during": "during", "after": "before"}
_SIDE = 6

Compound = tuple[int, int, str]


@cache
def compounds() -> tuple[Compound, ...]:
    """The 301 pairs of atomic actions with their order in time.

    Of each pair and its mirror image (a before b, b after a) the one with the smaller first number
    is a class.
    """
    kinds = range(len(ATOMIC))
    every = [(a, b, order) for a in kinds for b in kinds for order in _ORDERS]
    rank = {compound: i for i, compound in enumerate(every)}
    return tuple(c for c in every if rank[c] <= rank[_mirror(c)])


def _mirror(compound: Compound) -> Compound:
    first, second, order = compound
    return second, first, _REVERSE[order]


def compound_name(compound: Compound) -> str:
    """A class as text: `sphere_slide before cone_contain`."""
    first, second, order = compound
    return f"{''.join(ATOMIC[first])} {order} {''.join(ATOMIC[second])}"


def order(first: tuple[int, int], second: tuple[int, int]) -> str:
    """How two movements' (start, end) lie in time: before and after may share one frame."""
    if first[1] <= second[0]:
        return "before"
    return "after" if second[1] <= first[0] else "during"


def cell(x: float, y: float) -> int:
    """The cell, of 6 x 6 row by row, that a point of the plane is in."""
    column, row = (min(max(math.floor(v) + _SIDE // 2, 0), _SIDE - 1) for v in (x, y))
    return row * _SIDE + column


def localize(record: Record) -> int:
    """The cell of the snitch in the last frame."""
    (snitch,) = [thing for thing in record["objects"] if thing["shape"] == "spl"]
    last = max(snitch["locations"], key=int)
    return cell(*snitch["locations"][last][:2])


def actions_present(record: Record) -> list[int]:
    """The atomic actions that a scene holds, in order."""
    return sorted({kind for kind, _ in _events(record)})


def actions_order(record: Record) -> list[int]:
    """The compound classes that a scene holds, in order."""
    number = {compound: i for i, compound in enumerate(compounds())}
    found = set()
    for (a, first), (b, second) in permutations(_events(record), 2):
        compound = (a, b, order(first, second))
        if compound in number:
            found.add(number[compound])
    return sorted(found)


def _events(record: Record) -> Sequence[tuple[int, tuple[int, int]]]:
    """Every atomic action of a scene with its start and end."""
    number = {kind: i for i, kind in enumerate(ATOMIC)}
    return [
        (number[thing["shape"], action], (start, end))
        for thing in record["objects"]
        for action, _, start, end in record["movements"][thing["instance"]]
        if (thing["shape"], action) in number
    ]
