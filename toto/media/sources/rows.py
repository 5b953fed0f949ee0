"""Rows of tables, their cells checked one by one."""

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from toto.errors import UserError
from toto.media.sources.layout import split_of

T = TypeVar("T")


class Row:
    """One row of a table.

    Args:
        values: its cells by column. Text from CSV, or what JSON and Parquet hold; missing, None,
            "" and NaN are no value.
        where: the file and the row, for errors.
    """

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values = values
        self.where = where

    def text(self, column: str) -> str | None:
        """The text of a cell; whole numbers become digits.

        Raises:
            UserError: it is something else.
        """
        value = self._values.get(column)
        if isinstance(value, str):
            return value or None
        if _is_missing(value):
            return None
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        raise self._wrong(column, value, "text")

    def number(self, column: str) -> float | None:
        """The number in a cell.

        Raises:
            UserError: it is something else.
        """
        value = self._values.get(column)
        if _is_missing(value):
            return None
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            try:
                number = float(value)
            except (ValueError, OverflowError):
                number = math.nan
            if math.isfinite(number):
                return number
        raise self._wrong(column, value, "a number")

    def split(self) -> str | None:
        """The split in the column of that name.

        Raises:
            UserError: it is none of train, val and test, nor another word for one.
        """
        word = self.text("split")
        if word is None:
            return None
        split = split_of(word.lower())
        if split is None:
            raise self._wrong("split", word, "train, val or test")
        return split

    def checked(self, make: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """What `make` returns; its error says where."""
        try:
            return make(*args, **kwargs)
        except UserError as error:
            raise UserError(f"{self.where}: {error}") from None

    def _wrong(self, column: str, value: Any, expected: str) -> UserError:
        shown = repr(value)
        shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
        return UserError(f"{self.where}, column {column!r}: {shown}: expected {expected}")


def _is_missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))
