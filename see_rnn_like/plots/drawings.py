"""What can be in the panels of a grid: curves, heatmaps, histograms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, Normalize, is_color_like, to_rgba_array
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D

from see_rnn_like.errors import ArgumentError
from see_rnn_like.plots.figure import BAD_CELL
from see_rnn_like.plots.grid import finite_range
from see_rnn_like.plots.panels import View

#: Height of the marks of NaN and Inf on the bottom edge of a panel, as a share of it.
_MARK = 0.08


@dataclass(frozen=True)
class Curves:
    """Panels of curves.

    Attributes:
        values: ``(panel, curve, timestep)``.
        colors: one per curve.
        style: keyword arguments of `Axes.plot`.
        zero_line: whether y = 0 is drawn.
    """

    values: np.ndarray
    colors: Sequence[Any]
    style: Mapping[str, Any]
    zero_line: bool

    def ranges(self) -> np.ndarray:
        """Lower and upper limits ``(panel, 2)`` of what is drawn; NaN if nothing is."""
        ranges = finite_range(self.values, (1, 2))
        return np.stack([np.fmin(ranges[:, 0], 0), np.fmax(ranges[:, 1], 0)], 1) if self.zero_line else ranges

    def draw(self, ax: Axes, panel: int) -> None:
        """Draws one panel into its axes."""
        if self.zero_line:
            ax.axhline(0, color="red")
        for curve, color in zip(_gaps(self.values[panel]), self.colors, strict=True):
            ax.plot(curve, **{"color": color, **self._dots(), **self.style})
        bad = np.flatnonzero(~np.isfinite(self.values[panel]).all(0))
        if bad.size:
            ax.vlines(bad, 0, _MARK, transform=ax.get_xaxis_transform(), color=BAD_CELL)

    def sketch(self, canvas: Axes, view: View) -> Iterable[Artist]:
        """One line per curve through all panels: far fewer artists than curves, and joints that cost less."""
        time = np.arange(self.values.shape[2])
        if self.zero_line:
            zero = view.placed(view.fractions(view.xlim, np.zeros((len(view.panels), 2))))
            yield LineCollection(zero.tolist(), colors="red", transform=canvas.transData)
        for i, color in enumerate(self.colors):
            points = np.full((len(view.panels), len(time) + 1, 2), np.nan)
            points[:, :-1] = view.placed(view.fractions(time, _gaps(self.values[view.panels, i])))
            yield Line2D(
                *points.reshape(-1, 2).T,
                solid_joinstyle="bevel",
                solid_capstyle="butt",
                transform=canvas.transData,
                **{"color": color, **self._dots(), **self.style},
            )
        yield from self._sketch_bad(canvas, view)

    def _sketch_bad(self, canvas: Axes, view: View) -> Iterable[Artist]:
        panels, times = np.nonzero(~np.isfinite(self.values[view.panels]).all(1))
        if panels.size:
            foot = view.fractions(
                np.arange(self.values.shape[2]), np.zeros((len(view.panels), self.values.shape[2]))
            )
            foot[..., 1] = 0
            feet = view.placed(foot)[panels, times]
            yield LineCollection(
                np.stack([feet, feet + np.array([0, _MARK])], 1).tolist(),
                colors=BAD_CELL,
                linewidths=1.0,
                transform=canvas.transData,
            )

    def _dots(self) -> dict[str, Any]:
        # A line through one timestep would be invisible.
        return {"marker": "."} if self.values.shape[2] == 1 else {}


@dataclass(frozen=True)
class Heatmaps:
    """Panels of one image each.

    Attributes:
        images: masked ``(panel, row, column)``.
        cmap: colour map.
        norm: values to colours.
        style: keyword arguments of `Axes.imshow`.
    """

    images: np.ma.MaskedArray
    cmap: Colormap
    norm: Normalize
    style: Mapping[str, Any]

    def draw(self, ax: Axes, panel: int) -> None:
        """Draws one panel into its axes."""
        ax.imshow(
            self.images[panel], **{"cmap": self.cmap, "norm": self.norm, "aspect": "auto", **self.style}
        )

    def sketch(self, canvas: Axes, view: View) -> Iterable[Artist]:
        """One image per panel."""
        for panel, left, bottom in zip(view.panels, view.left, view.bottom, strict=True):
            image = AxesImage(
                canvas,
                cmap=self.cmap,
                norm=self.norm,
                extent=(left, left + 1, bottom, bottom + 1),
                origin="upper",
            )
            image.set_data(self.images[panel])
            image.set_transform(canvas.transData)
            yield image


def curve_colors(color: Any, curves: int) -> list[Any]:
    """One colour per curve.

    Args:
        color: None for matplotlib's cycle, one colour for all, or a sequence of at least `curves` colours.
        curves: number of curves.

    Raises:
        ArgumentError: for too few colours or what is no colour.

    Example:
        >>> curve_colors("blue", 2), curve_colors(["r", "g"], 2)
        (['blue', 'blue'], ['r', 'g'])
    """
    if color is None:
        cycle = mpl.rcParams["axes.prop_cycle"].by_key().get("color", ["C0"])
        return [cycle[i % len(cycle)] for i in range(curves)]
    if is_color_like(color):
        return [color] * curves
    try:
        to_rgba_array(color)
        enough = len(color) >= curves
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"color is a colour or a sequence of colours; got {color!r}") from error
    if not enough:
        raise ArgumentError(f"color must give one colour, or one per curve: {curves}; got {len(color)}")
    return list(color[:curves])


def color_limits(images: np.ma.MaskedArray, norm: Any) -> tuple[float, float]:
    """Values of the first and the last colour, see `features_2D`.

    Raises:
        ArgumentError: if `norm` is none of None, ``"auto"``, a pair of finite numbers.
    """
    if norm is not None and not isinstance(norm, str):
        try:
            low, high = (float(limit) for limit in norm)
        except (TypeError, ValueError) as error:
            raise ArgumentError(f"norm is None, 'auto' or a pair (vmin, vmax); got {norm!r}") from error
        if not (np.isfinite([low, high]).all() and low <= high):
            raise ArgumentError(f"norm is a pair (vmin, vmax) of finite numbers, vmin ≤ vmax; got {norm!r}")
        return low, high
    if norm not in (None, "auto"):
        raise ArgumentError(f"norm is None, 'auto' or a pair (vmin, vmax); got {norm!r}")
    finite = images.compressed()
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    if low == high:
        # One value alone has no range: show it against zero.
        low, high = (min(low, 0.0), max(high, 0.0)) if low else (-1.0, 1.0)
    if norm == "auto" or low < 0 < high:
        return -max(abs(low), abs(high)), max(abs(low), abs(high))
    return low, high


def _gaps(values: np.ndarray) -> np.ndarray:
    """Inf is no place a line could go to."""
    return np.where(np.isfinite(values), values, np.nan)
