"""When to record: a schedule is a function `step -> bool`, built once, with a name a person can read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from see_rnn_like.errors import ArgumentError, ArgumentTypeError


class Schedule:
    """A named rule telling at which optimizer steps (counted from 0) something is due.

    Combine two with ``|``: due when either is.

    Args:
        name: how the schedule prints; write it as the call that makes it.
        due: function from step to bool.

    Example:
        >>> schedule = first(2) | every(100)
        >>> schedule
        first(2) | every(100)
        >>> [step for step in range(300) if schedule(step)]
        [0, 1, 100, 200]
    """

    def __init__(self, name: str, due: Callable[[int], bool]) -> None:
        self.name = name
        self._due = due

    def __call__(self, step: int) -> bool:
        """Whether something is due at this step."""
        return bool(self._due(step))

    def __or__(self, other: Schedule) -> Schedule:
        if not isinstance(other, Schedule):
            return NotImplemented
        return Schedule(f"{self} | {other}", lambda step: self(step) or other(step))

    def __repr__(self) -> str:
        return self.name


def every(n: int, start: int = 0, stop: int | None = None) -> Schedule:
    """Due at `start`, `start + n`, `start + 2 n`, … before `stop`.

    Args:
        n: distance between due steps, at least 1.
        start: first due step.
        stop: first step that is no longer due; None for no end.

    Raises:
        ArgumentError: if `n` < 1, `start` < 0 or `stop` ≤ `start`.
        ArgumentTypeError: if one of them is not a whole number.

    Example:
        >>> [step for step in range(10) if every(4, start=1)(step)]
        [1, 5, 9]
    """
    _require_whole("n", n, least=1)
    _require_whole("start", start, least=0)
    if stop is not None:
        _require_whole("stop", stop, least=start + 1)
    rest = "".join(f", {k}={v}" for k, v in (("start", start), ("stop", stop)) if v)
    return Schedule(
        f"every({n}{rest})",
        lambda step: step >= start and (stop is None or step < stop) and (step - start) % n == 0,
    )


def at(steps: Iterable[int]) -> Schedule:
    """Due at exactly these steps.

    Raises:
        ArgumentError: if there is none or one is negative.
        ArgumentTypeError: if one is not a whole number.

    Example:
        >>> [step for step in range(10) if at([0, 7])(step)]
        [0, 7]
    """
    wanted = sorted(set(steps))
    if not wanted:
        raise ArgumentError("at() needs at least one step; got none")
    for step in wanted:
        _require_whole("step", step, least=0)
    members = frozenset(wanted)
    return Schedule(f"at({wanted})", lambda step: step in members)


def first(n: int) -> Schedule:
    """Due at the first `n` steps: 0 … n − 1.

    Raises:
        ArgumentError: if `n` < 1.
        ArgumentTypeError: if `n` is not a whole number.

    Example:
        >>> [step for step in range(10) if first(3)(step)]
        [0, 1, 2]
    """
    _require_whole("n", n, least=1)
    return Schedule(f"first({n})", lambda step: 0 <= step < n)


def log_spaced(per_decade: int = 10) -> Schedule:
    """Due at 0, 1 and then about `per_decade` times between 10^k and 10^(k+1), evenly in log(step).

    Most of what is worth seeing happens in the first hundred steps; this looks often there and
    ever more rarely later.

    Args:
        per_decade: due steps per factor of ten, at least 1 (steps that round to the same are one).

    Raises:
        ArgumentError: if `per_decade` < 1.
        ArgumentTypeError: if it is not a whole number.

    Example:
        >>> [step for step in range(200) if log_spaced(3)(step)]
        [0, 1, 2, 5, 10, 22, 46, 100]
    """
    _require_whole("per_decade", per_decade, least=1)
    return Schedule(f"log_spaced({per_decade})", lambda step: _on_log_grid(step, per_decade))


def as_schedule(given: int | Schedule) -> Schedule:
    """Turns what a user passes as `every=` into a schedule: a whole number n means `every(n)`.

    Raises:
        ArgumentError: if the number is < 1.
        ArgumentTypeError: if it is neither a whole number nor a schedule.
    """
    if isinstance(given, Schedule):
        return given
    _require_whole("every", given, least=1, hint=" or a schedule such as log_spaced(10) | first(20)")
    return every(given)


def _on_log_grid(step: int, per_decade: int) -> bool:
    if step <= 0:
        return step == 0
    nearest = round(math.log10(step) * per_decade)
    # A step is on the grid if some 10^(k / per_decade) rounds to it; k can only be a neighbour.
    return any(round(10 ** (k / per_decade)) == step for k in range(nearest - 1, nearest + 2))


def _require_whole(what: str, given: object, least: int, hint: str = "") -> None:
    # operator.index would also take booleans; every=True is a mistake, not every=1.
    if isinstance(given, bool) or not hasattr(given, "__index__"):
        raise ArgumentTypeError(f"{what} must be a whole number ≥ {least}{hint}; got {given!r}")
    if given.__index__() < least:
        raise ArgumentError(f"{what} must be a whole number ≥ {least}{hint}; got {given!r}")
