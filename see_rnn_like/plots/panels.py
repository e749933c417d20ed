"""Panels of a grid: what is in them, how they look, and drawing each into an axes of its own."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from see_rnn_like.errors import ArgumentError
from see_rnn_like.plots.grid import TICK_FONT, Grid, InnerLocator, NumberFormatter, whole_locator

#: Grids of up to this many panels are made of real axes from the start.
REAL_AXES = 9

# What a canvas can do as the real axes would; with other styles the panels are real axes.
_CANVAS_ANNOTATION = {"weight", "fontsize", "color", "xy", "xycoords", "va"}


@dataclass(frozen=True)
class View:
    """Where some panels lie on the canvas, whose unit is one panel; y grows upwards.

    Attributes:
        panels: their numbers ``(n,)``.
        left: left edges ``(n,)``.
        bottom: bottom edges ``(n,)``.
        xlim: limits of their x axes ``(n, 2)``.
        ylim: limits of their y axes ``(n, 2)``.
    """

    panels: np.ndarray
    left: np.ndarray
    bottom: np.ndarray
    xlim: np.ndarray
    ylim: np.ndarray

    def fractions(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Points as shares of their panel's width and height.

        Args:
            x: data coordinates, broadcast to ``(n, point)``.
            y: data coordinates ``(n, point)``.

        Returns:
            float64 ``(n, point, 2)``.
        """
        points = np.empty((*y.shape, 2))
        points[..., 0] = (x - self.xlim[:, :1]) / np.diff(self.xlim, axis=1)
        points[..., 1] = (y - self.ylim[:, :1]) / np.diff(self.ylim, axis=1)
        return points

    def at(self, i: int) -> View:
        """The view of its i-th panel alone."""
        one = slice(i, i + 1)
        return View(self.panels[one], self.left[one], self.bottom[one], self.xlim[one], self.ylim[one])

    def placed(self, fractions: np.ndarray) -> np.ndarray:
        """Points ``(n, point, 2)`` in shares of their panel, moved to the canvas."""
        return fractions + np.stack([self.left, self.bottom], axis=1)[:, None, :]


class Drawing(Protocol):
    """What is in the panels, and the two ways to draw it."""

    @property
    def whole(self) -> tuple[bool, bool]:
        """Whether x and y count something, so that ticks are whole numbers."""

    def draw(self, ax: Axes, panel: int) -> None:
        """Draws one panel into its axes; limits and style are set by others."""

    def sketch(self, canvas: Axes, view: View) -> Iterable[Artist]:
        """The artists that show the panels of the view on the canvas."""


@dataclass(frozen=True)
class PanelStyle:
    """How the panels of a grid look, apart from what is in them.

    Attributes:
        ticks: whether x and y ticks are shown.
        borders: whether the frame is drawn.
        borderwidth: width of the frame in points; None for matplotlib's.
        bordercolor: colour of the frame; None for matplotlib's.
        annotations: texts of the first panels.
        annot: keyword arguments of `Axes.annotate`; without a fontsize it follows the panel's height.
    """

    ticks: tuple[bool, bool]
    borders: bool = True
    borderwidth: float | None = None
    bordercolor: Any = None
    annotations: tuple[str, ...] = ()
    annot: Mapping[str, Any] | None = None

    def apply(self, ax: Axes, panel: int, fontsize: float) -> None:
        """Styles the real axes of a panel."""
        if not self.ticks[0]:
            ax.set_xticks([])
        if not self.ticks[1]:
            ax.set_yticks([])
        if panel < len(self.annotations):
            ax.annotate(self.annotations[panel], **{"fontsize": fontsize, **(self.annot or {})})
        ax.set_frame_on(self.borders)
        for spine in ax.spines.values():
            if self.borderwidth is not None:
                spine.set_linewidth(self.borderwidth)
            if self.bordercolor is not None:
                spine.set_color(self.bordercolor)

    def fits_canvas(self) -> bool:
        """Whether a canvas can show the annotations."""
        annot = self.annot or {}
        return not self.annotations or (
            set(annot) <= _CANVAS_ANNOTATION
            and annot.get("xycoords") == "axes fraction"
            and annot.get("va", "baseline") in ("baseline", "top")
        )


@dataclass(frozen=True)
class Panels:
    """All there is to know of a grid of panels.

    Attributes:
        grid: their places.
        drawing: what is in them.
        style: how they look.
        xlim: limits of the x axes ``(panel, 2)``, shared ones equal; NaN to leave them to matplotlib.
        ylim: limits of the y axes, likewise.
        share: which panels share the x and the y axis, see `share_word`.
    """

    grid: Grid
    drawing: Drawing
    style: PanelStyle
    xlim: np.ndarray
    ylim: np.ndarray
    share: tuple[str, str]

    def draw_real(self, fig: Figure, **subplots: Any) -> np.ndarray:
        """Draws every panel into an axes of its own.

        Returns:
            Axes ``(row, col)``; those of empty places are invisible.
        """
        many = self.grid.count > REAL_AXES and bool(
            np.isfinite(self.xlim).all() and np.isfinite(self.ylim).all()
        )
        share: dict[str, Any] = {} if many else {"sharex": self.share[0], "sharey": self.share[1]}
        axes = fig.subplots(self.grid.rows, self.grid.cols, squeeze=False, **share, **subplots)
        for panel, ax in enumerate(axes.flat):
            self.fill(ax, panel)
            if panel < self.grid.count:
                # Also where the place below is empty, which in matplotlib takes the labels with it.
                below, beside = self.labelled(panel)
                ax.tick_params(labelbottom=below, labelleft=beside)
            if many and panel < self.grid.count:
                self.link(ax, panel, axes)
        return axes

    def link(self, ax: Axes, panel: int, axes: np.ndarray) -> None:
        """Makes the panels that share an axis with this one follow its limits.

        matplotlib's own sharing asks all of them at every turn: with 256 panels that takes minutes.
        """
        for share, axis in zip(self.share, "xy", strict=True):
            groups = self.grid.groups(share)
            others = [axes.flat[other] for other in np.flatnonzero(groups == groups[panel]) if other != panel]
            ax.callbacks.connect(f"{axis}lim_changed", functools.partial(_follow, axis, others))

    def outer(self, panel: int) -> tuple[bool, bool]:
        """Whether a panel is the lowest of its column, and whether it is the first of its row."""
        return panel + self.grid.cols >= self.grid.count, panel % self.grid.cols == 0

    def speaks(self, panel: int) -> tuple[bool, bool]:
        """Whether the x labels of a panel are those of its whole column, and the y labels of its row."""
        rows, cols = self.grid.places(np.arange(self.grid.count))
        return _all_equal(self.xlim[cols == cols[panel]]), _all_equal(self.ylim[rows == rows[panel]])

    def labelled(self, panel: int) -> tuple[bool, bool]:
        """Whether the tick labels of a panel's x and y axis are needed."""
        (lowest, first), (column, row) = self.outer(panel), self.speaks(panel)
        return lowest or not column, first or not row

    def own_labels(self) -> tuple[bool, bool]:
        """Whether there are x and y tick labels between the panels."""
        inner = [self.speaks(panel) for panel in range(self.grid.count)]
        x, y = self.style.ticks
        return bool(x) and not all(column for column, _ in inner), bool(y) and not all(
            row for _, row in inner
        )

    def fill(self, ax: Axes, panel: int) -> None:
        """Draws one panel into its real axes."""
        if panel >= self.grid.count:
            ax.set_visible(False)
            return
        self.drawing.draw(ax, panel)
        for axis, integer in zip((ax.xaxis, ax.yaxis), self.drawing.whole, strict=True):
            if integer:
                axis.set_major_locator(whole_locator())
        if np.isfinite(self.xlim[panel]).all():
            ax.set_xlim(*self.xlim[panel])
        if np.isfinite(self.ylim[panel]).all():
            ax.set_ylim(*self.ylim[panel])
        self.style.apply(ax, panel, annotation_size(ax.get_window_extent().height * 72 / ax.figure.dpi))


def panel_texts(annotations: Any, count: int) -> tuple[str, ...]:
    """Texts of the first panels: their index for ``"auto"``, those given, or none.

    Raises:
        ArgumentError: for another text than ``"auto"``.

    Example:
        >>> panel_texts("auto", 3), panel_texts(["a"], 3), panel_texts(None, 3)
        (('0', '1', '2'), ('a',), ())
    """
    if isinstance(annotations, str) and annotations != "auto":
        raise ArgumentError(
            f"annotations is 'auto', None or a list of texts, one per panel; got {annotations!r}"
        )
    texts = range(count) if isinstance(annotations, str) else annotations
    return () if texts is None else tuple(str(text) for text in texts)


def small_labels(ax: Axes, whole: tuple[bool, bool]) -> None:
    """Tick labels that need little room, as a canvas has them.

    Args:
        ax: the axes.
        whole: whether ticks of x and y are whole numbers.
    """
    ax.tick_params(labelsize=TICK_FONT)
    for axis, integer in zip((ax.xaxis, ax.yaxis), whole, strict=True):
        locator = axis.get_major_locator()
        # Not ticks that were taken away, or are on a logarithmic axis.
        if isinstance(locator, MaxNLocator):
            axis.set_major_formatter(NumberFormatter())
            # A label at the end of an axis would run into one of the next panel.
            if integer:
                axis.set_major_locator(whole_locator(prune="lower" if axis is ax.yaxis else None))
            elif axis is ax.yaxis:
                axis.set_major_locator(MaxNLocator(nbins="auto", prune="both"))
            else:
                axis.set_major_locator(InnerLocator(nbins="auto"))


def annotation_size(height: float) -> float:
    """Font size of an annotation that leaves most of a panel of so many points of height to the data."""
    return float(np.clip(0.28 * height, 5.5, 16))


def _all_equal(limits: np.ndarray) -> bool:
    return bool((limits == limits[0]).all())


def _follow(axis: str, others: Iterable[Axes], ax: Axes) -> None:
    limits = getattr(ax, f"get_{axis}lim")()
    for other in others:
        getattr(other, f"set_{axis}lim")(limits, emit=False)
