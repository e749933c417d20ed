"""Histograms in the panels of a grid: their bins, their bars, the highest of which may be clipped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.text import Text
from matplotlib.transforms import ScaledTranslation

from see_rnn_like.errors import ArgumentError
from see_rnn_like.plots.panels import View

#: Arguments of `Axes.hist` after which heights and limits are no longer those of plain counts.
NOT_PLAIN_COUNTS = {"align", "bottom", "cumulative", "log", "orientation", "stacked", "weights"}

# What a canvas can do as the real axes would; with other styles the panels are real axes.
_CANVAS_STYLE = {"alpha", "color", "density", "range"}
_NOT_CANVAS_TEXT = {"annotation_clip", "arrowprops", "textcoords", "xytext"}

#: Distance of a heading from its panel in points, as in matplotlib.
_HEADING_PAD = 6


@dataclass(frozen=True)
class Label:
    """A text in or beside a panel, with the keyword arguments of `Axes.annotate`."""

    text: str
    style: Mapping[str, Any]


@dataclass(frozen=True)
class Bars:
    """Panels of one or more histograms each.

    Attributes:
        values: finite values by panel and histogram, each 1D; may be empty.
        edges: edges of the bins of each.
        style: keyword arguments of `Axes.hist`.
        labels: by panel.
        headings: titles of the first panels.
        heading_style: keyword arguments of `Axes.set_title`.
    """

    values: Sequence[Sequence[np.ndarray]]
    edges: Sequence[Sequence[np.ndarray]]
    style: Mapping[str, Any]
    labels: Sequence[Sequence[Label]]
    headings: Sequence[str]
    heading_style: Mapping[str, Any]

    @property
    def whole(self) -> tuple[bool, bool]:
        """Values and densities need not be whole, counts are."""
        return False, not (NOT_PLAIN_COUNTS & set(self.style) or self.style.get("density"))

    def draw(self, ax: Axes, panel: int) -> None:
        """Draws one panel into its axes."""
        for i, (values, edges) in enumerate(zip(self.values[panel], self.edges[panel], strict=True)):
            if values.size:
                ax.hist(values, bins=edges.tolist(), **{"color": f"C{i % 10}", **self.style})
        for label in self.labels[panel]:
            ax.annotate(label.text, **label.style)
        if panel < len(self.headings):
            ax.set_title(self.headings[panel], **self.heading_style)

    def sketch(self, canvas: Axes, view: View) -> Iterable[Artist]:
        """The outlines of the first histogram of every panel in one artist, of the second in one, …."""
        layers: dict[int, list[np.ndarray]] = {}
        for i, panel in enumerate(view.panels):
            here = view.at(i)
            for layer, (values, edges) in enumerate(zip(self.values[panel], self.edges[panel], strict=True)):
                if values.size:
                    outline = here.fractions(*_outline(bar_heights(values, edges, self.style), edges))
                    layers.setdefault(layer, []).append(here.placed(np.clip(outline, 0, 1))[0])
        for layer, outlines in layers.items():
            yield PolyCollection(
                outlines,
                facecolors=self.style.get("color", f"C{layer % 10}"),
                alpha=self.style.get("alpha"),
                edgecolors="none",
                transform=canvas.transData,
            )
        for i, panel in enumerate(view.panels):
            yield from self._sketch_texts(canvas, view.at(i), panel)

    def _sketch_texts(self, canvas: Axes, here: View, panel: int) -> Iterable[Artist]:
        for label in self.labels[panel]:
            style = {"va": "baseline", **label.style}
            x, y = here.placed(np.array([[style.pop("xy")]], dtype=float))[0, 0]
            style.pop("xycoords")
            yield Text(x, y, label.text, transform=canvas.transData, clip_on=False, **style)
        if panel < len(self.headings):
            x, y = here.placed(np.array([[[0.5, 1.0]]]))[0, 0]
            style = {"fontsize": "large", "pad": _HEADING_PAD, **self.heading_style}
            lift = ScaledTranslation(0, style.pop("pad") / 72, canvas.figure.dpi_scale_trans)
            lifted = canvas.transData + lift
            yield Text(x, y, self.headings[panel], ha="center", transform=lifted, clip_on=False, **style)

    def fits_canvas(self) -> bool:
        """Whether a canvas can show these bars and texts as real axes would."""
        styles = [label.style for labels in self.labels for label in labels]
        return (
            set(self.style) <= _CANVAS_STYLE
            and not {"ha", "horizontalalignment", "loc", "y"} & set(self.heading_style)
            and all(
                style.get("xycoords") == "axes fraction" and not _NOT_CANVAS_TEXT & set(style)
                for style in styles
            )
        )


def bin_edges(values: np.ndarray, bins: Any, limits: Any = None) -> np.ndarray:
    """Edges of the bins, as `numpy.histogram_bin_edges`, also of values too close to be told apart.

    Args:
        values: finite values, 1D.
        bins: number of bins, their edges, or the name of a rule.
        limits: lower and upper edge; None for the range of the values, or, where rounding would not
            let the edges differ, for 1 (or the size of the values, if larger) around them.

    Example:
        >>> bin_edges(np.array([1.0, 1.0 + 1e-15]), 2).tolist()
        [0.5, 1.0, 1.5]
    """
    if limits is None and values.size and isinstance(bins, (int, np.integer)):
        low, high = float(values.min()), float(values.max())
        if high - low < 4 * int(bins) * np.spacing(max(abs(low), abs(high))):
            half = max(0.5, abs(low) / 2)
            limits = (low - half, low + half)
    return np.histogram_bin_edges(values, bins, limits)


def bar_heights(values: np.ndarray, edges: np.ndarray, style: Mapping[str, Any]) -> np.ndarray:
    """Heights of the bars, as `Axes.hist` makes them with this style."""
    return np.histogram(values, edges, density=bool(style.get("density")))[0]


def clip_peaks(heights: np.ndarray, edges: np.ndarray, peaks: int) -> tuple[float, list[tuple[float, float]]]:
    """The highest bar left when the highest ones are clipped.

    Args:
        heights: of the bars ``(bin,)``.
        edges: of the bins ``(bin + 1,)``.
        peaks: how many to clip; if no other bar had a height, none is.

    Returns:
        The height, and left edge and height of each clipped bar, highest first.

    Raises:
        ArgumentError: if `peaks` is not a whole number ≥ 0.

    Example:
        >>> clip_peaks(np.array([1, 9, 2]), np.array([0.0, 1.0, 2.0, 3.0]), 1)
        (2.0, [(1.0, 9.0)])
    """
    if isinstance(peaks, bool) or not isinstance(peaks, (int, np.integer)) or peaks < 0:
        raise ArgumentError(f"peaks_to_clip is a whole number ≥ 0; got {peaks!r}")
    order = np.argsort(-heights, kind="stable")
    left = float(heights[order[peaks:]].max(initial=0))
    if left == 0:
        return float(heights.max(initial=0)), []
    return left, [(float(edges[i]), float(heights[i])) for i in order[:peaks]]


def peak_note(peaks: Sequence[tuple[float, float]]) -> str:
    """Clipped bars, one ``(x, count)`` per line.

    Example:
        >>> peak_note([(0.25, 1200.0), (-1.0, 0.5)]).splitlines()
        ['(0.25, 1200)', '(-1, 0.5)']
    """
    return "\n".join(f"({x:.3g}, {int(y) if y.is_integer() else f'{y:.3g}'})" for x, y in peaks)


def _outline(heights: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners of the bars taken together, ``(1, point)`` each."""
    return np.repeat(edges, 2)[None], np.concatenate([[0.0], np.repeat(heights, 2), [0.0]])[None]
