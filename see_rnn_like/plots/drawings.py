"""What can be in the panels of a grid: curves and heatmaps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, Normalize
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle
from numpy.typing import ArrayLike

from see_rnn_like.plots.colors import BAD_CELL
from see_rnn_like.plots.grid import finite_range
from see_rnn_like.plots.panels import View

#: Height of the marks of NaN and Inf on the bottom edge of a panel, as a share of it.
_MARK = 0.08

#: A heatmap is divided into so many rows and columns of blocks, and one bad cell of each is marked.
_BLOCKS = 64

#: How a bad cell is marked, in `Axes.scatter`: at least so large (points²) it can be seen.
_BAD_MARK: dict[str, Any] = {"marker": "s", "s": 9, "c": BAD_CELL, "linewidths": 0, "zorder": 2}
_LINE_MARK: dict[str, Any] = {
    "marker": "s",
    "markersize": 3,
    "color": BAD_CELL,
    "markeredgewidth": 0,
    "zorder": 2,
}


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

    @property
    def whole(self) -> tuple[bool, bool]:
        """Timesteps are counted, values are not."""
        return True, False

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
            ax.vlines(bad, 0, _MARK, transform=ax.get_xaxis_transform(), color=BAD_CELL, linewidth=2)

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
                linewidths=2.0,
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

    @property
    def whole(self) -> tuple[bool, bool]:
        """Timesteps and channels are counted."""
        return True, True

    def draw(self, ax: Axes, panel: int) -> None:
        """Draws one panel into its axes."""
        look = {"cmap": self.cmap, "norm": self.norm, "aspect": "auto"}
        sharp = _interpolation(self.images[panel].shape, ax.get_window_extent().size)
        mark_bad_cells(ax.imshow(self.images[panel], **{**look, "interpolation": sharp, **self.style}))

    def sketch(self, canvas: Axes, view: View) -> Iterable[Artist]:
        """One image per panel."""
        pixels = np.diff(canvas.transData.transform([[0, 0], [1, 1]]), axis=0)[0]
        sharp = _interpolation(self.images.shape[1:], pixels)
        for panel, left, bottom in zip(view.panels, view.left, view.bottom, strict=True):
            image = AxesImage(
                canvas,
                cmap=self.cmap,
                norm=self.norm,
                interpolation=sharp,
                extent=(left, left + 1, bottom, bottom + 1),
                origin="upper",
            )
            image.set_data(self.images[panel])
            image.set_transform(canvas.transData)
            yield image
        for i, panel in enumerate(view.panels):
            places = _cells_to_mark(self.images[panel])
            if places.size:
                here = view.at(i)
                marks = here.placed(here.fractions(places[:, 0], places[None, :, 1]))[0]
                yield Line2D(*marks.T, linestyle="none", **_LINE_MARK, transform=canvas.transData)


def image_limits(
    panels: int, rows: int, columns: int, style: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Limits of the x and y axes of heatmaps ``(panel, 2)``; NaN if their style places them elsewhere."""
    if {"extent", "origin"} & set(style):
        return np.full((panels, 2), np.nan), np.full((panels, 2), np.nan)
    return np.tile([-0.5, columns - 0.5], (panels, 1)), np.tile([rows - 0.5, -0.5], (panels, 1))


def mark_bad_cells(image: AxesImage) -> None:
    """Marks the masked cells of an image where it shows them."""
    cells: Any = image.get_array()
    columns, rows = _cells_to_mark(cells).T
    if columns.size:
        height, width = cells.shape
        left, right, bottom, top = image.get_extent()
        first, last = (top, bottom) if image.origin == "upper" else (bottom, top)
        x = left + (columns + 0.5) * (right - left) / width
        y = first + (rows + 0.5) * (last - first) / height
        image.axes.scatter(x, y, **_BAD_MARK)


def _cells_to_mark(image: np.ma.MaskedArray) -> np.ndarray:
    """Columns and rows ``(cell, 2)`` of masked cells to mark: one per block of the heatmap.

    Cells can be smaller than a pixel, so that even a whole column of them vanishes; marks do not.
    """
    rows, columns = np.nonzero(np.ma.getmaskarray(image))
    height, width = image.shape
    blocks = rows * _BLOCKS // height * _BLOCKS + columns * _BLOCKS // width
    marked = np.unique(blocks, return_index=True)[1]
    return np.stack([columns[marked], rows[marked]], axis=1)


def _interpolation(cells: tuple[int, ...], pixels: ArrayLike) -> str | None:
    """Keeps cells of at least a pixel sharp; smaller ones are averaged by matplotlib instead of left out."""
    return "nearest" if (np.array(cells[::-1]) <= np.abs(pixels)).all() else None


def _gaps(values: np.ndarray) -> np.ndarray:
    """Inf is no place a line could go to."""
    return np.where(np.isfinite(values), values, np.nan)


def draw_points(
    ax: Axes, values: np.ndarray, colors: np.ndarray, marker: Any, style: Mapping[str, Any], clip: bool
) -> None:
    """Draws values above the number of their sample, and marks on the bottom edge for NaN and Inf.

    Args:
        ax: the axes.
        values: ``(sample, channel)``.
        colors: RGBA ``(sample · channel, 4)``.
        marker: as in `Axes.scatter`.
        style: keyword arguments of `Axes.scatter`.
        clip: whether points are cut off at the edge of the axes.
    """
    samples = np.repeat(np.arange(1, len(values) + 1), values.shape[1])
    finite = np.isfinite(values.ravel())
    filled = MarkerStyle(marker).is_filled()
    # The middle of a diverging map is white: without an edge it would vanish on white.
    edge = {"edgecolors": "0.25", "linewidths": 0.5} if filled else {"linewidths": 2.0}
    ax.scatter(
        samples[finite],
        values.ravel()[finite],
        c=colors[finite],
        marker=marker,
        clip_on=clip,
        **_without_aliases(edge, style),
    )
    bad = np.unique(samples[~finite])
    if bad.size:
        ax.vlines(bad, 0, _MARK, transform=ax.get_xaxis_transform(), color=BAD_CELL, linewidth=3)


def _without_aliases(defaults: Mapping[str, Any], style: Mapping[str, Any]) -> dict[str, Any]:
    """The style over the defaults, also where it calls an argument by its other name."""
    aliases = {"linewidths": {"linewidth", "lw"}, "edgecolors": {"edgecolor", "ec"}}
    return {name: value for name, value in defaults.items() if not aliases[name] & set(style)} | dict(style)
