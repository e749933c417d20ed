"""A grid of panels that costs about as much as one axes.

A matplotlib axes takes some ten milliseconds to make and draw, whatever is in it; a grid of 256 takes
seconds, and the curves in it a fraction of one. So a large grid is drawn on *one* axes, the canvas, with
everything moved to its place in the grid. The panels are still handed out as `matplotlib.axes.Axes`, one
per place: each sleeps until something of it is used (a method called, an attribute read or set), then
becomes an ordinary axes in its place, with its panel drawn in it, and vanishes from the canvas. Touching
all of them gives the figure that a grid of real axes would have been, at their price.

Panels that share limits stay equal: changing the limits of one wakes the others.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.lines import Line2D
from matplotlib.markers import TICKDOWN, TICKLEFT

from see_rnn_like.plots.grid import TICK_FONT, fitting_ticks
from see_rnn_like.plots.panels import Panels, View, annotation_size, small_labels
from see_rnn_like.plots.texts import Labels

#: Length of ticks and distance of their labels from them, in points, as in matplotlib.
_TICK, _TICK_PAD = 3.5, 3.5

#: What Python asks of any object without using it: `isinstance` and saving with its figure.
_NO_USE = {"__class__", "__reduce_ex__"}

#: Heights of annotations and tick labels: rows and columns that are smaller are labelled now and then.
_ANNOTATION_ROOM = 6.0
_TICK_ROOM = (2 * TICK_FONT, 1.2 * TICK_FONT)


def draw_sleeping(fig: Figure, panels: Panels) -> np.ndarray:
    """Draws every panel on one canvas.

    Returns:
        Axes ``(row, col)`` that sleep until they are used, see the head of this module.
    """
    canvas = Canvas(fig, panels)
    fig.add_subplot(canvas)
    canvas.refresh()
    return canvas.sleeping


class SleepingAxes(Axes):
    """An axes that comes to be when it is first used, by calling `wake` with itself.

    From then on it is a plain `matplotlib.axes.Axes`: nothing of this class is left.
    """

    def __init__(self, wake: Callable[[Axes], None]) -> None:
        # Without Axes.__init__: that is what costs.
        object.__setattr__(self, "_wake", wake)

    def __getattribute__(self, name: str) -> Any:
        if name in _NO_USE:
            return object.__getattribute__(self, name)
        _wake(self)
        return getattr(self, name)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # It is saved with its figure, as the axes in its place on the canvas.
        wake = object.__getattribute__(self, "_wake")
        return _axes_of, (wake.func.__self__, *wake.args)

    def __setattr__(self, name: str, value: Any) -> None:
        _wake(self)
        setattr(self, name, value)

    def __repr__(self) -> str:
        return "<Axes: asleep until it is used>"


def _wake(ax: SleepingAxes) -> None:
    wake = object.__getattribute__(ax, "__dict__").pop("_wake")
    object.__setattr__(ax, "__class__", Axes)
    wake(ax)


def _axes_of(canvas: Canvas, panel: int) -> Axes:
    return canvas.sleeping.flat[panel]


class Canvas(Axes):
    """The one axes on which the panels are drawn that nobody has used yet. Its unit is one panel.

    Attributes:
        sleeping: the axes that are handed out ``(row, col)``.
        labels: tick labels of the x and the y axis.
    """

    def __init__(self, fig: Figure, panels: Panels) -> None:
        grid = panels.grid
        self._spec = GridSpec(grid.rows, grid.cols, figure=fig)
        place: Any = self._spec[:, :]
        super().__init__(fig, place)
        self._fig = fig
        self._panels = panels
        self._shown: list[Artist] = []
        self._drawn: tuple[Any, ...] = ()
        self._asleep = np.ones(grid.count, bool)
        self._edges = np.array([_edge_labels(panels, panel) for panel in range(grid.count)])
        self.sleeping = np.empty((grid.rows, grid.cols), object)
        self._put_to_sleep(range(grid.rows * grid.cols))
        self.set_navigate(False)
        self.patch.set_visible(False)
        self.spines[:].set_visible(False)
        for axis in (self.xaxis, self.yaxis):
            axis.set_ticks([])
            # A label the user adds stands clear of the tick labels drawn here.
            axis.labelpad += _TICK + _TICK_PAD + 2 * TICK_FONT
        own_x, own_y = panels.own_labels()
        if own_x:
            self.set_xlabel("every panel has its own x limits", labelpad=_TICK_PAD, fontsize=TICK_FONT)
        if own_y:
            self.set_ylabel("every panel has its own y limits", labelpad=_TICK_PAD, fontsize=TICK_FONT)

    def _put_to_sleep(self, panels: Iterable[int]) -> None:
        for panel in panels:
            place = divmod(panel, self._panels.grid.cols)
            self.sleeping[place] = SleepingAxes(functools.partial(self._wake, panel))

    def __getstate__(self) -> dict[str, Any]:
        # Saving a sleeping axes would wake it; the canvas makes new ones when it is read.
        asleep = [type(ax) is SleepingAxes for ax in self.sleeping.flat]
        awake = [None if sleeps else ax for sleeps, ax in zip(asleep, self.sleeping.flat, strict=True)]
        return {**super().__getstate__(), "sleeping": awake}  # type: ignore[dict-item]

    def __setstate__(self, state: dict[str, Any]) -> None:
        axes = state.pop("sleeping")
        super().__setstate__(state)  # type: ignore[misc]
        self.sleeping = np.empty((self._panels.grid.rows, self._panels.grid.cols), object)
        for panel, ax in enumerate(axes):
            self.sleeping[divmod(panel, self._panels.grid.cols)] = ax
        self._put_to_sleep(panel for panel, ax in enumerate(axes) if ax is None)

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
        grid = self._panels.grid
        self.set_xlim(0, grid.cols + (grid.cols - 1) * params.wspace)
        self.set_ylim(0, grid.rows + (grid.rows - 1) * params.hspace)
        self._shown = list(self._artists(params.wspace, params.hspace)) if self._asleep.any() else []
        for artist in self._shown:
            self.add_artist(artist)

    def _artists(self, wspace: float, hspace: float) -> Iterable[Artist]:
        grid = self._panels.grid
        panels = np.flatnonzero(self._asleep)
        rows, cols = grid.places(panels)
        left, bottom = cols * (1 + wspace), (grid.rows - 1 - rows) * (1 + hspace)
        view = View(panels, left, bottom, self._panels.xlim[panels], self._panels.ylim[panels])
        unit = np.diff(self.transData.transform([[0, 0], [1, 1]]), axis=0)[0] * 72 / self._fig.dpi
        if self._panels.style.borders:
            yield from self._frames(view)
        yield from self._panels.drawing.sketch(self, view)
        yield from self._annotations(view, rows, unit[1])
        yield from self._x_ticks(view, cols, unit[0], wspace)
        yield from self._y_ticks(view, rows, unit[1], hspace)

    def _frames(self, view: View) -> Iterable[Artist]:
        corners = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
        boxes = view.placed(np.broadcast_to(corners, (len(view.panels), 4, 2))).tolist()
        style, settings = self._panels.style, mpl.rcParams
        width = settings["axes.linewidth"] if style.borderwidth is None else style.borderwidth
        color = settings["axes.edgecolor"] if style.bordercolor is None else style.bordercolor
        common: dict[str, Any] = {"transform": self.transData, "clip_on": False}
        yield PolyCollection(
            boxes, facecolors=settings["axes.facecolor"], edgecolors="none", zorder=0, **common
        )
        yield PolyCollection(
            boxes, facecolors="none", edgecolors=color, linewidths=width, zorder=2.5, **common
        )

    def _annotations(self, view: View, rows: np.ndarray, height: float) -> Iterable[Artist]:
        style = self._panels.style
        shown = (view.panels < len(style.annotations)) & (rows % _label_step(height, _ANNOTATION_ROOM) == 0)
        if not shown.any():
            return
        annot = {"fontsize": annotation_size(height), "va": "baseline", **(style.annot or {})}
        places = view.placed(np.broadcast_to(annot["xy"], (len(view.panels), 1, 2)).astype(float))
        yield Labels(
            [style.annotations[panel] for panel in view.panels[shown]],
            places[shown, 0],
            self.transData,
            dpi=self._fig.dpi,
            size=annot["fontsize"],
            weight=annot.get("weight"),
            color=annot.get("color", mpl.rcParams["text.color"]),
            va=annot["va"],
        )

    def _x_ticks(self, view: View, cols: np.ndarray, width: float, wspace: float) -> Iterable[Artist]:
        step = _label_step(width, _TICK_ROOM[0])
        slack = _slack(step, wspace)
        shown = np.flatnonzero(self._edges[view.panels, 0] & (cols % step == 0))
        ticks = [
            (view.left[i] + place, text)
            for i in shown
            for place, text in fitting_ticks(
                *view.xlim[i], points=width, slack=slack, whole=self._panels.drawing.whole[0]
            )
        ]
        places = np.array([(place, 0.0) for place, _ in ticks]).reshape(-1, 2)
        yield from self._ticks(places, TICKDOWN, [text for _, text in ticks], (0.0, -1.0), "center", "top")

    def _y_ticks(self, view: View, rows: np.ndarray, height: float, hspace: float) -> Iterable[Artist]:
        step = _label_step(height, _TICK_ROOM[1])
        slack = _slack(step, hspace)
        shown = np.flatnonzero(self._edges[view.panels, 1] & (rows % step == 0))
        ticks = [
            (view.bottom[i] + place, text)
            for i in shown
            for place, text in fitting_ticks(
                *view.ylim[i], points=height, slack=slack, whole=self._panels.drawing.whole[1], tall=True
            )
        ]
        places = np.array([(0.0, place) for place, _ in ticks]).reshape(-1, 2)
        yield from self._ticks(places, TICKLEFT, [text for _, text in ticks], (-1.0, 0.0), "right", "center")

    def _ticks(
        self,
        places: np.ndarray,
        marker: Any,
        texts: list[str],
        outwards: tuple[float, float],
        ha: str,
        va: str,
    ) -> Iterable[Artist]:
        if not texts:
            return
        color = mpl.rcParams["axes.edgecolor"]
        yield Line2D(
            *places.T,
            linestyle="none",
            marker=marker,
            markersize=_TICK,
            color=color,
            markeredgewidth=0.8,
            transform=self.transData,
            clip_on=False,
        )
        shift = (outwards[0] * (_TICK + _TICK_PAD), outwards[1] * (_TICK + _TICK_PAD))
        yield Labels(
            texts,
            places,
            self.transData,
            dpi=self._fig.dpi,
            size=TICK_FONT,
            color=mpl.rcParams["text.color"],
            ha=ha,
            va=va,
            shift=shift,
        )

    def _wake(self, panel: int, ax: Axes) -> None:
        """Makes a sleeping axes real, in its place."""
        current = self._fig.gca()
        place: Any = self._spec[divmod(panel, self._panels.grid.cols)]
        Axes.__init__(ax, self._fig, place)
        self._fig.add_subplot(ax)
        self._fig.sca(current)
        self._panels.fill(ax, panel)
        if panel < self._panels.grid.count:
            self._asleep[panel] = False
            below, beside = self._edges[panel].tolist()
            ax.tick_params(bottom=below, left=beside, labelbottom=below, labelleft=beside)
            small_labels(ax, self._panels.drawing.whole)
            self._panels.link(ax, panel, self.sleeping)
        self.stale = True


def _edge_labels(panels: Panels, panel: int) -> tuple[bool, bool]:
    """Whether a panel has x and y labels: only on the edges of the grid, where they are true of all."""
    (lowest, first), (column, row) = panels.outer(panel), panels.speaks(panel)
    x, y = panels.style.ticks
    return bool(x) and lowest and column, bool(y) and first and row


def _label_step(points: float, needed: float) -> int:
    """Every how many rows or columns of so many points there is room for a label."""
    return max(1, int(np.ceil(needed / points)))


def _slack(step: int, gap: float) -> float:
    """By how much of a panel labels may stick out of it: halfway to the next one with labels."""
    return (step - 1) * (1 + gap) / 2 + gap / 2
