"""What a user can get wrong, and what a media file's own bytes can get wrong."""

import difflib
from collections.abc import Callable, Iterable, Mapping

Number = int | float


class UserError(Exception):
    """A user's mistake, said in one line: the thing, its value, and what would be accepted.

    The command line prints it without a traceback and exits with code 2.
    """


class MediaError(Exception):
    """What the bytes of one file cause. It costs that file, never the run."""


def unknown(what: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a `name` that is not among the `known` ones, with the nearest as a hint."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
    return UserError(f"unknown {what} {name!r}: {hint}")


def at_least(least: Number, **values: Number) -> None:
    """Refuse numbers below `least`, each named by its keyword.

    Raises:
        UserError: one is.
    """
    _refuse(values, lambda value: value >= least, f"at least {least}")


def positive(**values: Number | None) -> None:
    """Refuse numbers, where they are given, that are not above 0."""
    _refuse(values, lambda value: 0 < value < float("inf"), "above 0")


def within(low: Number, high: Number, **values: Number) -> None:
    """Refuse numbers that are not from `low` to `high`."""
    _refuse(values, lambda value: low <= value <= high, f"from {low} to {high}")


def fraction(**values: Number) -> None:
    """Refuse numbers that are not from 0 to below 1."""
    _refuse(values, lambda value: 0 <= value < 1, "from 0 to below 1")


def _refuse(
    values: Mapping[str, Number | None], accepts: Callable[[Number], bool], what: str
) -> None:
    for name, value in values.items():
        if value is not None and not accepts(value):
            raise UserError(f"{name} {value}: {what}")
