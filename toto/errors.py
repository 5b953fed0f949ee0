"""What a user can get wrong, and what a media file's own bytes can get wrong."""

import difflib
from collections.abc import Iterable


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


def at_least(least: int, **values: int) -> None:
    """Refuse numbers below `least`, each named by its keyword.

    Raises:
        UserError: one is.
    """
    for name, value in values.items():
        if value < least:
            raise UserError(f"{name} {value}: at least {least}")
