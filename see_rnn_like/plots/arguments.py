"""Numbers that the caller of a picture gives: how many columns, which sample, which step."""

from __future__ import annotations

import operator
import reprlib
from typing import Any

from see_rnn_like.errors import ArgumentError, ArgumentTypeError


def whole_number(name: str, value: Any) -> int:
    """Checks that an argument is a whole number; True is a mistake, not 1.

    Args:
        name: of the argument.
        value: what was given.

    Returns:
        The number.

    Raises:
        ArgumentTypeError: if it is something else.

    Example:
        >>> whole_number("step", 3)
        3
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ArgumentTypeError(f"{name} is a whole number; got {reprlib.repr(value)}")
    try:
        return operator.index(value)
    except TypeError:  # an array has __index__, whatever it holds
        raise ArgumentTypeError(f"{name} is a whole number; got {reprlib.repr(value)}") from None


def column_count(columns: Any, most: int) -> int:
    """Panels per row, of so many at most; all of them if `columns` is None.

    Raises:
        ArgumentError: if `columns` < 1.
        ArgumentTypeError: if it is no whole number.

    Example:
        >>> column_count(None, 3), column_count(2, 3), column_count(9, 3)
        (3, 2, 3)
    """
    if columns is None:
        return most
    count = whole_number("columns", columns)
    if count < 1:
        raise ArgumentError(f"columns must be at least 1; got {count}")
    return min(count, most)


def position(name: str, value: Any, size: int) -> int:
    """Checks that an argument is the number of one of `size` things, counted from 0.

    Raises:
        ArgumentError: if there is none of this number.
        ArgumentTypeError: if it is no whole number.

    Example:
        >>> position("sample", 2, 3)
        2
    """
    place = whole_number(name, value)
    if not 0 <= place < size:
        raise ArgumentError(f"{name} is one of 0 … {size - 1}; got {place}")
    return place
