"""A grid of small panels that costs about as much as one axes.

A matplotlib axes takes some ten milliseconds to make and draw, whatever is in it; a grid of 256 takes
seconds, and the curves in it a fraction of one. So a grid of more than `REAL_AXES` panels is drawn on
*one* axes, the canvas, with everything moved to its place in the grid. The panels are still handed out
as `matplotlib.axes.Axes`, one per place: each sleeps until something of it is used (a method called, an
attribute read or set), then becomes an ordinary axes in its place, with its panel drawn in it, and
vanishes from the canvas. Touching all of them gives exactly the figure matplotlib would have made, at
matplotlib's price.

Panels that share limits stay equal: changing the limits of one wakes the others.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.gridspec import GridSpec
from matplotlib.textpath import TextPath
from matplotlib.ticker import ScalarFormatter
from matplotlib.transforms import Affine2D

from see_rnn_like.errors import ArgumentError
from see_rnn_like.plots.grid import TICK_FONT, Grid, NumberFormatter, fitting_ticks

#: Grids of up to this many panels are made of real axes from the start.
REAL_AXES = 9

# What a canvas can do as the real axes would; with other styles the panels are real axes.
_CANVAS_ANNOTATION = {"weight", "fontsize", "color", "xy", "xycoords", "va"}

#: Height of a capital letter or digit of matplotlib's default font, as a share of the font size.
_CAP_HEIGHT = 0.73


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

    def draw_sleeping(self, fig: Figure) -> np.ndarray:
        """Draws every panel on one canvas.

        Returns:
            Axes ``(row, col)`` that sleep until they are used, see the head of this module.
        """
        spec = GridSpec(self.grid.rows, self.grid.cols, figure=fig)
        canvas = _Canvas(fig, spec, self)
        fig.add_subplot(canvas)
        canvas.refresh()
        return canvas.sleeping

    def fill(self, ax: Axes, panel: int) -> None:
        """Draws one panel into its real axes."""
        if panel >= self.grid.count:
            ax.set_visible(False)
            return
        self.drawing.draw(ax, panel)
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


def small_labels(ax: Axes) -> None:
    """Tick labels that need little room, as a canvas has them."""
    ax.tick_params(labelsize=TICK_FONT)
    for axis in (ax.xaxis, ax.yaxis):
        # Ticks that were taken away have a formatter of their own.
        if isinstance(axis.get_major_formatter(), ScalarFormatter):
            axis.set_major_formatter(NumberFormatter())


def annotation_size(height: float) -> float:
    """Font size of an annotation that leaves most of a panel of so many points of height to the data."""
    return float(np.clip(0.28 * height, 5.5, 16))


class _SleepingAxes(Axes):
    """An axes that comes to be when it is first used, by calling `wake` with itself.

    From then on it is a plain `matplotlib.axes.Axes`: nothing of this class is left.
    """

    def __init__(self, wake: Callable[[Axes], None]) -> None:
        # Without Axes.__init__: that is what costs.
        object.__setattr__(self, "_wake", wake)

    def __getattribute__(self, name: str) -> Any:
        _wake(self)
        return getattr(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        _wake(self)
        setattr(self, name, value)

    def __repr__(self) -> str:
        return "<Axes: asleep until it is used>"


def _wake(ax: _SleepingAxes) -> None:
    state = object.__getattribute__(ax, "__dict__")
    wake = state.pop("_wake")
    object.__setattr__(ax, "__class__", Axes)
    wake(ax)


class _Canvas(Axes):
    """The one axes on which the panels are drawn that nobody has used yet."""

    def __init__(self, fig: Figure, spec: GridSpec, panels: Panels) -> None:
        place: Any = spec[:, :]
        super().__init__(fig, place)
        grid = panels.grid
        self._fig = fig
        self._panels = panels
        self._spec = spec
        self._shown: list[Artist] = []
        self._drawn: tuple[Any, ...] = ()
        self._asleep = np.ones(grid.count, bool)
        self.sleeping = np.empty((grid.rows, grid.cols), object)
        for panel in range(self.sleeping.size):
            self.sleeping[divmod(panel, grid.cols)] = _SleepingAxes(functools.partial(self._wake, panel))
        self.set_navigate(False)
        self.patch.set_visible(False)
        self.spines[:].set_visible(False)

    def draw(self, renderer: Any) -> None:
        """Draws the panels that still sleep."""
        self.refresh()
        super().draw(renderer)

    def refresh(self) -> None:
        """Rebuilds what is drawn if a panel woke or the room around the panels changed."""
        params = self._spec.get_subplot_params(self._fig)
        state = (params.wspace, params.hspace, *self.bbox.size, int(self._asleep.sum()))
        if state == self._drawn:
            return
        self._drawn = state
        for artist in self._shown:
            artist.remove()
        self._shown = []
        self.set_xlim(0, self._panels.grid.cols + (self._panels.grid.cols - 1) * params.wspace)
        self.set_ylim(0, self._panels.grid.rows + (self._panels.grid.rows - 1) * params.hspace)
        self._label_edges(params.wspace, params.hspace)
        if self._asleep.any():
            view = self._view(np.flatnonzero(self._asleep), params.wspace, params.hspace)
            for artist in [
                *self._frames(view),
                *self._panels.drawing.sketch(self, view),
                *self._annotate(view),
            ]:
                self.add_artist(artist)
                self._shown.append(artist)

    def _view(self, panels: np.ndarray, wspace: float, hspace: float) -> View:
        rows, cols = self._panels.grid.places(panels)
        bottom = (self._panels.grid.rows - 1 - rows) * (1 + hspace)
        return View(panels, cols * (1 + wspace), bottom, self._panels.xlim[panels], self._panels.ylim[panels])

    def _panel_points(self) -> tuple[float, float]:
        """Width and height of a panel in points."""
        unit = self.transData.transform([[0, 0], [1, 1]])
        width, height = (unit[1] - unit[0]) * 72 / self._fig.dpi
        return width, height

    def _frames(self, view: View) -> list[Artist]:
        corners = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
        boxes = view.placed(np.broadcast_to(corners, (len(view.panels), 4, 2))).tolist()
        if not self._panels.style.borders:
            return []
        style, settings = self._panels.style, mpl.rcParams
        width = settings["axes.linewidth"] if style.borderwidth is None else style.borderwidth
        color = settings["axes.edgecolor"] if style.bordercolor is None else style.bordercolor
        ground = PolyCollection(boxes, facecolors=settings["axes.facecolor"], edgecolors="none", zorder=0)
        frame = PolyCollection(boxes, facecolors="none", edgecolors=color, linewidths=width, zorder=2.5)
        for artist in (ground, frame):
            artist.set_clip_on(False)
            artist.set_transform(self.transData)
        return [ground, frame]

    def _annotate(self, view: View) -> list[Artist]:
        style = self._panels.style
        every = _label_step(self._panel_points()[1], 6.0)
        labelled = (view.panels < len(style.annotations)) & (
            view.panels // self._panels.grid.cols % every == 0
        )
        annot = dict(style.annot or {})
        size = annot.get("fontsize", annotation_size(self._panel_points()[1]))
        font = FontProperties(weight=annot.get("weight"), size=size)
        start = (0, -_CAP_HEIGHT * font.get_size_in_points() if annot.get("va") == "top" else 0)
        texts = [TextPath(start, style.annotations[panel], prop=font) for panel in view.panels[labelled]]
        if not texts:
            return []
        anchors = view.placed(np.broadcast_to(annot["xy"], (len(view.panels), 1, 2)).astype(float))[
            labelled, 0
        ]
        artist = PathCollection(
            texts,
            offsets=anchors,
            offset_transform=self.transData,
            facecolors=annot.get("color", mpl.rcParams["text.color"]),
            edgecolors="none",
            zorder=3,
        )
        # Text paths are in points, the canvas is drawn in pixels.
        artist.set_transform(Affine2D().scale(self._fig.dpi / 72))
        return [artist]

    def _label_edges(self, wspace: float, hspace: float) -> None:
        """Ticks along the left and bottom edge, where a sleeping panel is the outer one."""
        grid, panels = self._panels.grid, self._panels
        width, height = self._panel_points()
        rows, cols = grid.places(np.arange(grid.count))
        steps = (_label_step(width, 2 * TICK_FONT), _label_step(height, 1.2 * TICK_FONT))
        slack = tuple(
            (step - 1) * (1 + space) / 2 + 0.06 for step, space in zip(steps, (wspace, hspace), strict=True)
        )
        ticks: tuple[list[tuple[float, str]], ...] = ([], [])
        for panel in np.flatnonzero(self._asleep).tolist():
            below, beside = self._edge_labels(panel)
            if below and panels.style.ticks[0] and cols[panel] % steps[0] == 0:
                start = cols[panel] * (1 + wspace)
                found = fitting_ticks(*panels.xlim[panel], points=width, slack=slack[0], tall=False)
                ticks[0].extend((start + place, text) for place, text in found)
            if beside and panels.style.ticks[1] and rows[panel] % steps[1] == 0:
                start = (grid.rows - 1 - rows[panel]) * (1 + hspace)
                found = fitting_ticks(*panels.ylim[panel], points=height, slack=slack[1], tall=True)
                ticks[1].extend((start + place, text) for place, text in found)
        self.set_xticks([place for place, _ in ticks[0]], [text for _, text in ticks[0]], fontsize=TICK_FONT)
        self.set_yticks([place for place, _ in ticks[1]], [text for _, text in ticks[1]], fontsize=TICK_FONT)

    def _edge_labels(self, panel: int) -> tuple[bool, bool]:
        """Whether a panel has x and y labels: only on the edges of the grid, where they are true of all."""
        (lowest, first), (column, row) = self._panels.outer(panel), self._panels.speaks(panel)
        return lowest and column, first and row

    def _wake(self, panel: int, ax: Axes) -> None:
        """Makes a sleeping axes real, in its place."""
        current = self._fig.gca()
        rows, cols = divmod(panel, self._panels.grid.cols)
        place: Any = self._spec[rows, cols]
        Axes.__init__(ax, self._fig, place)
        self._fig.add_subplot(ax)
        self._fig.sca(current)
        self._panels.fill(ax, panel)
        if panel < self._panels.grid.count:
            self._asleep[panel] = False
            below, beside = self._edge_labels(panel)
            ax.tick_params(bottom=below, left=beside, labelbottom=below, labelleft=beside)
            small_labels(ax)
            self._panels.link(ax, panel, self.sleeping)
        self.stale = True


def _follow(axis: str, others: Iterable[Axes], ax: Axes) -> None:
    limits = getattr(ax, f"get_{axis}lim")()
    for other in others:
        getattr(other, f"set_{axis}lim")(limits, emit=False)


def _all_equal(limits: np.ndarray) -> bool:
    return bool((limits == limits[0]).all())


def _label_step(points: float, needed: float) -> int:
    """Every how many rows or columns of so many points there is room for a label."""
    return max(1, int(np.ceil(needed / points)))
