"""How a command's arguments are read, and what a mistake in them says."""

import contextlib
import functools
import io
from collections.abc import Callable, Mapping
from typing import Any

import tyro

from toto.errors import UserError, unknown

Command = Callable[[list[str], str], None]
"""Runs with the words after its name, and the name as help says it."""


def command(function: Callable[..., None]) -> Command:
    """A command whose arguments are the function's."""

    @functools.wraps(function)
    def bind(*args: Any, **kwargs: Any) -> functools.partial:
        return functools.partial(function, *args, **kwargs)

    def command(arguments: list[str], prog: str) -> None:
        parse(bind, arguments, prog)()

    command.__doc__ = (function.__doc__ or "").splitlines()[0]
    return command


def parse(
    target: Any, arguments: list[str], prog: str, default: Any = tyro.MISSING, about: str = ""
) -> Any:
    """Parse with tyro, its box of an error made one line; `about` begins the help."""
    said = io.StringIO()
    how: dict[str, Any] = {"args": arguments, "prog": prog, "description": about or None}
    try:
        with contextlib.redirect_stderr(said):
            if default is tyro.MISSING:
                return tyro.cli(target, **how)
            return tyro.cli(target, default=default, **how)
    except SystemExit as exit_:
        if exit_.code:
            raise UserError(_one_line(said.getvalue(), prog)) from None
        raise


def _one_line(box: str, prog: str) -> str:
    sections: list[list[str]] = [[]]
    for line in box.splitlines()[1:]:
        words = line.strip(" │╭╮╰╯")
        if words.startswith("──"):
            sections.append([])
        elif words:
            sections[-1].append(words)
    message = " ".join(sections[0])
    if len(sections) > 1 and sections[1][:1] == ["Perhaps you meant:"]:
        message += f" (perhaps you meant {sections[1][1]})"
    return f"{message} ({prog} --help says what there is)"


def recipe_name(
    arguments: list[str], prog: str, usage: str, recipes: Mapping[str, Callable[[], Any]]
) -> str | None:
    """The recipe that the arguments begin with; None if its help was asked for and given."""
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print(f"{usage}\n")
        width = max(map(len, recipes))
        for known, recipe in recipes.items():
            print(f"  {known:<{width}}  {(recipe.__doc__ or '').splitlines()[0]}")
        print(f"\n{prog} RECIPE --help explains every field.")
        return None
    if name not in recipes:
        raise unknown("recipe", name, recipes)
    return name


def named_recipe(
    arguments: list[str], usual: str, recipes: Mapping[str, Callable[[], Any]]
) -> tuple[str, Any]:
    """The recipe that `--recipe` names among the arguments, or the usual one.

    Raises:
        UserError: there is no such recipe.
    """
    name = usual
    for i, word in enumerate(arguments):
        option, _, value = word.partition("=")
        if option == "--recipe":
            name = value or "".join(arguments[i + 1 : i + 2])
    if name not in recipes:
        raise unknown("recipe", name, recipes)
    return name, recipes[name]()
