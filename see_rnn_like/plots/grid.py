"""Places of panels in a grid, the limits they share, the ticks they have room for."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.ticker import Formatter, MaxNLocator

from see_rnn_like.errors import ArgumentError, one_of
from see_rnn_like.plots.figure import pair

#: Columns per row (or rows per column) up to which a grid counts as nearly square.
_NEARLY_SQUARE = 2

#: Size of tick labels in a grid of many panels, in points.
TICK_FONT = 8.0

#: Sizes below which a float64 loses its digits.
_TINY = 1e-290

_STEPS = [1, 2, 2.5, 4, 5, 10]
_SHARES: dict[Any, str] = {
    True: "all",
    False: "none",
    "all": "all",
    "none": "none",
    "row": "row",
    "col": "col",
}


@dataclass(frozen=True)
class Grid:
    """Places of `count` panels, row by row; the last ones of the grid may stay empty.

    Attributes:
        rows: number of rows.
        cols: number of columns.
        count: number of panels, at most ``rows · cols``.
    """

    rows: int
    cols: int
    count: int

    @classmethod
    def of(cls, count: int, n_rows: int | None = None) -> Grid:
        """The grid for so many panels.

        Args:
            count: number of panels, at least one.
            n_rows: number of rows, more than `count` means `count`; None for a nearly square grid,
                without empty places where that is possible.

        Raises:
            ArgumentError: if `n_rows` is not a positive whole number.

        Example:
            >>> Grid.of(12), Grid.of(7)
            (Grid(rows=3, cols=4, count=12), Grid(rows=3, cols=3, count=7))
            >>> Grid.of(7, n_rows=2)
            Grid(rows=2, cols=4, count=7)
        """
        if n_rows is not None:
            if isinstance(n_rows, bool) or not isinstance(n_rows, (int, np.integer)) or n_rows < 1:
                raise ArgumentError(f"n_rows is a whole number ≥ 1 or None; got {n_rows!r}")
            rows = min(int(n_rows), count)
            return cls(rows, -(-count // rows), count)
        most = count // int(np.sqrt(count))
        cols = next(n for n in range(most, 0, -1) if count % n == 0)
        rows = count // cols
        if max(rows, cols) > _NEARLY_SQUARE * min(rows, cols):
            cols = int(np.ceil(np.sqrt(count)))
            rows = -(-count // cols)
        return cls(rows, cols, count)

    def places(self, panels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Row and column of panels."""
        return np.divmod(panels, self.cols)

    def groups(self, share: str) -> np.ndarray:
        """Which panels share an axis: panels of equal number do, int64 ``(panel,)``."""
        panels = np.arange(self.count)
        rows, cols = self.places(panels)
        return {"all": np.zeros_like(panels), "row": rows, "col": cols, "none": panels}[share]


def share_words(share_xy: Any) -> tuple[str, str]:
    """Which panels share their x and their y axes, in matplotlib's words, for what see-rnn accepts.

    Raises:
        ArgumentError: for anything but booleans, ``all``, ``row``, ``col``, ``none``, or a pair of these.

    Example:
        >>> share_words(("col", 1)), share_words(False)
        (('col', 'all'), ('none', 'none'))
    """
    x, y = pair("share_xy", share_xy)
    return _share_word(x), _share_word(y)


def _share_word(share: Any) -> str:
    if isinstance(share, (str, bool, int, np.bool_, np.integer)) and share in _SHARES:
        return _SHARES[share]
    raise one_of("share_xy", share, [True, False, "all", "row", "col", "none"])


def share_limits(limits: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Widest limits among the panels of each group.

    Args:
        limits: ``(panel, 2)``, lower and upper; NaN where a panel has none.
        groups: ``(panel,)``, see `Grid.groups`.

    Returns:
        float64 ``(panel, 2)`` without NaN: groups without limits get ``(0, 0)``.

    Example:
        >>> share_limits(np.array([[0.0, 1.0], [-1.0, 0.5], [np.nan, np.nan]]), np.array([0, 0, 1])).tolist()
        [[-1.0, 1.0], [-1.0, 1.0], [0.0, 0.0]]
    """
    low, high = np.full(len(limits), np.inf), np.full(len(limits), -np.inf)
    np.fmin.at(low, groups, limits[:, 0])
    np.fmax.at(high, groups, limits[:, 1])
    shared = np.stack([low, high], axis=1)[groups]
    return np.where(np.isfinite(shared), shared, 0.0)


def finite_range(values: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    """Smallest and largest finite value over some axes.

    Returns:
        float64 ``(..., 2)``; NaN where there is no finite value.
    """
    finite: Any = np.isfinite(values)
    # Reductions under a mask are several times slower, and rarely needed.
    finite = True if finite.all() else finite
    low = np.min(values, axis, where=finite, initial=np.inf).astype("float64")
    high = np.max(values, axis, where=finite, initial=-np.inf).astype("float64")
    return np.where(np.isfinite(np.stack([low, high], -1)), np.stack([low, high], -1), np.nan)


def widen(limits: np.ndarray, margin: float = 0.05) -> np.ndarray:
    """Puts a margin around limits; equal ones are torn apart by the same share of their size.

    Args:
        limits: ``(panel, 2)``, finite.
        margin: share of the range to add on either side.

    Example:
        >>> widen(np.array([[0.0, 10.0], [2.0, 2.0], [0.0, 0.0]]), 0.1).tolist()
        [[-1.0, 11.0], [1.8, 2.2], [-0.1, 0.1]]
    """
    size = np.abs(limits).max(axis=1, keepdims=True)
    span = np.diff(limits, axis=1)
    # Limits closer than rounding can resolve are equal, and so are those that are hardly numbers.
    size = np.where(size > _TINY, size, 0)
    step = margin * np.where(span > 1e-12 * size + _TINY, span, np.where(size > 0, size, 1.0))
    return limits + np.concatenate([-step, step], axis=1)


@functools.lru_cache(maxsize=256)
def fitting_ticks(
    low: float, high: float, points: float, slack: float, whole: bool = False, tall: bool = False
) -> list[tuple[float, str]]:
    """As many ticks of a panel, up to five, as have room for their labels.

    Args:
        low: lower limit.
        high: upper limit.
        points: length of the axis in points.
        slack: share of the panel by which labels may stick out of it.
        whole: whether only whole numbers are marked.
        tall: whether the axis is a y axis.

    Returns:
        Their places as shares of the panel, and their labels.
    """
    kept: list[tuple[float, str]] = []
    for bins in (5, 4, 3, 2, 1):
        locator = whole_locator(bins) if whole else MaxNLocator(nbins=bins, steps=_STEPS)
        values = np.asarray(locator.tick_values(min(low, high), max(low, high)))
        labels = number_texts(values)
        half = np.array([1.0 if tall else 0.62 * len(label) for label in labels]) * TICK_FONT / points / 2
        places = (values - low) / (high - low)
        inside = (places - half > -slack) & (places + half < 1 + slack) & (places >= 0) & (places <= 1)
        kept = [(places[i], labels[i]) for i in np.flatnonzero(inside)]
        ends = np.sort(np.stack([places - half, places + half], 1)[inside], axis=0)
        if kept and (ends[1:, 0] - ends[:-1, 1] > 0.2 * TICK_FONT / points).all():
            return kept
    return kept[:1]


def whole_locator(bins: int | Literal["auto"] = "auto", prune: Literal["lower"] | None = None) -> MaxNLocator:
    """Ticks at whole numbers, be it a single one; without the lowest if it is to be pruned."""
    return MaxNLocator(nbins=bins, steps=[1, 2, 4, 5, 10], integer=True, min_n_ticks=1, prune=prune)


class InnerLocator(MaxNLocator):
    """Ticks of an x axis whose labels have room within it, as the next panel is close."""

    def tick_values(self, vmin: float, vmax: float) -> Any:
        """Places of the ticks between two limits."""
        axes: Any = self.axis.axes  # type: ignore[union-attr]
        points = axes.get_window_extent().width * 72 / axes.get_figure(root=True).dpi
        found = fitting_ticks(float(vmin), float(vmax), float(points), 0.0)
        return np.array([vmin + share * (vmax - vmin) for share, _ in found])


class NumberFormatter(Formatter):
    """Tick labels by `number_texts`: no power of ten beside the axis, where the next panel is."""

    def __call__(self, value: float, pos: int | None = None) -> str:
        """The label of one tick alone."""
        return number_texts(np.array([value]))[0]

    def format_ticks(self, values: Any) -> list[str]:
        """The labels of all ticks."""
        return number_texts(np.asarray(values))


def number_texts(values: np.ndarray) -> list[str]:
    """Texts of evenly spaced numbers, with as many digits as tell them apart.

    Example:
        >>> number_texts(np.array([0.0, 0.5, 1.0])), number_texts(np.array([1.001, 1.002]))
        (['0', '0.5', '1'], ['1.001', '1.002'])
        >>> number_texts(np.array([-2e-6, 0.0, 2e-6]))
        ['-2e-6', '0', '2e-6']
    """
    size = np.abs(values).max(initial=0)
    step = np.abs(np.diff(values)).min(initial=size)
    digits = 5 if step == 0 or size == 0 else int(np.clip(np.ceil(np.log10(size / step)) + 2, 5, 15))
    # A value far below the step is what rounding left of zero.
    return [_short(0.0 if abs(value) < 1e-9 * step else value, digits) for value in values]


def _short(value: float, digits: int) -> str:
    mantissa, _, exponent = f"{value:.{digits}g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa
