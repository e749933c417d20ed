"""The picture of a distribution over training: values up, steps to the right, colour for how many.

The idea is the histogram picture of J. Howard and S. Gugger's fastai course (``ActivationStats``),
here with a signed logarithmic value axis, so that tanh layers, gradients and a collapse over twenty
orders of magnitude fit in.
"""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import FuncNorm
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from see_rnn_like import stats
from see_rnn_like.plots.steps import BAD, cell_edges, mark_bad_steps, power_text, scale_steps

_ZERO = stats.BINS // 2
_DECADE_PER_BIN = np.log10(2.0)
#: Share of the values of a step that may be smaller than the smallest row beside zero.
_TAIL = 0.05


@dataclass(frozen=True)
class ValueAxis:
    """The part of the signed-log histogram that is drawn.

    Zero has a row of its own. The rows next to it also hold everything smaller than they are: at most
    one value in twenty of any one step.

    Attributes:
        low: bin of the smallest magnitude drawn, as an index into `stats.EXPONENTS`.
        high: bin of the largest.
        negative: whether there are negative values.
        positive: whether there are positive values.
    """

    low: int
    high: int
    negative: bool
    positive: bool

    @property
    def threshold(self) -> float:
        """Smallest magnitude on the axis; the row of zeros spans ± this."""
        return float(2.0 ** stats.EXPONENTS[self.low])

    @property
    def edges(self) -> np.ndarray:
        """Borders of the rows, ascending, in units of the tensor ``(row + 1,)``."""
        sizes = 2.0 ** np.arange(stats.EXPONENTS[self.low], stats.EXPONENTS[self.high] + 2)
        below = -sizes[::-1] if self.negative else -sizes[:1]
        return np.concatenate([below, sizes if self.positive else sizes[:1]])

    def rows(self, counts: np.ndarray) -> np.ndarray:
        """Histogram counts ``(..., bin)`` → counts of the drawn rows ``(..., row)``."""
        below, zero, above = np.split(counts, [_ZERO, _ZERO + 1], axis=-1)
        sides = [zero]
        if self.negative:
            sides.insert(0, self._folded(below[..., ::-1])[..., ::-1])
        if self.positive:
            sides.append(self._folded(above))
        return np.concatenate(sides, axis=-1)

    def _folded(self, sizes: np.ndarray) -> np.ndarray:
        kept = sizes[..., self.low : self.high + 1].copy()
        kept[..., 0] += sizes[..., : self.low].sum(-1)
        return kept

    def apply(self, ax: Axes) -> None:
        """Gives the y axis of `ax` this range, signed-logarithmic with zero in its own row."""
        edges = self.edges
        zero_rows = max(1.5, len(edges) / 16)
        # matplotlib stretches each half of the linear part to linscale / (1 - 1/base) decades.
        ax.set_yscale("symlog", linthresh=self.threshold, linscale=0.9 * zero_rows * _DECADE_PER_BIN / 2)
        ax.set_ylim(edges[0], edges[-1])
        ax.yaxis.set_major_locator(FixedLocator(list(self.ticks())))
        ax.yaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter(FuncFormatter(power_text))

    def ticks(self, per_side: int = 3) -> np.ndarray:
        """Zero and at most `per_side` powers of ten on each side, well apart from zero."""
        low, high = np.log10(2.0) * stats.EXPONENTS[[self.low, self.high]] + [0, _DECADE_PER_BIN]
        stride = max(1, int(np.ceil((high - low) / per_side)))
        decades = np.arange(np.floor(high), low + 0.2 * (high - low), -stride)
        sizes = 10.0**decades if decades.size else 2.0 ** stats.EXPONENTS[[self.high]]
        return np.concatenate(
            [-sizes[: self.negative * sizes.size], [0.0], sizes[: self.positive * sizes.size]]
        )


def value_axis(counts: np.ndarray) -> ValueAxis:
    """Finds the part of the value axis worth drawing.

    Args:
        counts: histogram counts ``(gate, step, bin)`` of everything that shares the axis.

    Returns:
        The axis: both signs alike if there are values of both, else one side and zero.
    """
    table = counts.sum(0)
    below, above = table[:, :_ZERO][:, ::-1], table[:, _ZERO + 1 :]
    sizes = (below + above)[(below + above).any(1)]
    if not sizes.size:
        # Nothing but zeros, or nothing finite at all: any range will do, this is the one around 1.
        one = int(np.flatnonzero(stats.EXPONENTS == 0)[0])
        return ValueAxis(one, one, True, True)
    share = np.cumsum(sizes, axis=1) / sizes.sum(1, keepdims=True)
    low = int((share > _TAIL).argmax(1).min())
    high = int(np.flatnonzero(sizes.any(0))[-1])
    return ValueAxis(low, high, bool(below.any()), bool(above.any()))


def count_norm(counts: np.ndarray) -> FuncNorm:
    """Colour scale log(1 + count), so that an empty bin has the darkest colour and one value shows."""
    return FuncNorm((np.log1p, np.expm1), vmin=0, vmax=max(1, int(counts.max(initial=1))))


def draw_distribution(ax: Axes, table: xr.Dataset, axis: ValueAxis, norm: FuncNorm) -> QuadMesh:
    """Draws one panel.

    Args:
        ax: where to.
        table: statistics over ``step`` of one gate, with their ``histogram`` ``(step, bin)``. Where there
            are NaN or Inf, the column stands on the bad colour instead of on that of an empty bin.
        axis: the drawn part of the value axis.
        norm: the colour scale.

    Returns:
        The mesh ``(row, step)``; its masked cells are those in the bad colour.
    """
    steps, bad = table["step"].values, (table["nan"] + table["inf"]).values > 0
    scale_steps(ax, steps)
    axis.apply(ax)
    shown = axis.rows(table["histogram"].values).T
    cells = np.ma.masked_array(shown, mask=(shown == 0) & bad)
    colours = mpl.colormaps["viridis"].with_extremes(bad=BAD)
    mesh = ax.pcolormesh(
        cell_edges(ax, steps), axis.edges, cells, cmap=colours, norm=norm, rasterized=True, linewidth=0
    )
    for border in (-axis.threshold, axis.threshold):
        ax.axhline(border, color="white", linewidth=0.5, alpha=0.35, rasterized=True)
    mark_bad_steps(ax, steps[bad])
    return mesh
