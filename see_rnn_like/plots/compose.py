"""A figure made of a grid of panels: its room, its title, its colour bar."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from see_rnn_like.plots.canvas import draw_sleeping
from see_rnn_like.plots.figure import Styles, add_title, new_figure
from see_rnn_like.plots.panels import REAL_AXES, Panels, small_labels

#: Figure arguments of `pyplot.subplots` that do not change the grid of axes, so a canvas can keep to them.
_GRID_SUBPLOT = {"figsize", "dpi", "facecolor", "edgecolor", "frameon", "num", "clear"}

#: Gap between panels as a share of a panel, unless there is to be none.
_GAP = 0.12

#: Width of the labels of a y axis and height of those of an x axis, in inches.
_Y_LABEL, _X_LABEL = 0.6, 0.35


@dataclass(frozen=True)
class Page:
    """What is around the panels.

    Attributes:
        title: empty for none.
        styles: keyword arguments per drawing element.
        w: factor of the figure's width.
        h: factor of the figure's height.
        tight: gap between the panels as a share of a panel; None for one with room for tick labels.
        colored: what a colour bar is drawn for; None for none.
        above: room for headings of the columns, in inches.
        beside: room for texts to the right of the rows, in inches.
    """

    title: str
    styles: Styles
    w: float
    h: float
    tight: float | None
    colored: ScalarMappable | None = None
    above: float = 0.0
    beside: float = 0.0


def compose(panels: Panels, page: Page, plain: bool) -> tuple[Figure, np.ndarray]:
    """Makes the figure.

    Args:
        panels: what is drawn.
        page: what is around it.
        plain: whether the panels are styled with nothing that a canvas could not do.

    Returns:
        The figure and the axes ``(row, col)``; sleeping ones if there are many, see `canvas`.
    """
    subplot = dict(page.styles["subplot"])
    many = panels.grid.count > REAL_AXES
    asleep = many and plain and panels.style.fits_canvas() and set(subplot) <= _GRID_SUBPLOT
    fixed = many or page.tight is not None or bool(page.styles["tight"])
    fig = new_figure(subplot, page.w, page.h)
    if fixed:
        gaps = {} if asleep else _label_gaps(fig, panels)
        fig.subplots_adjust(**(_margins(fig, panels, page) | gaps | page.styles["tight"]))
    else:
        fig.set_layout_engine("constrained")
    axes = draw_sleeping(fig, panels) if asleep else panels.draw_real(fig, **subplot)
    for ax in axes.flat if fixed and not asleep else ():
        small_labels(ax, panels.drawing.whole)
    add_title(fig, page.title, page.styles["title"])
    if page.colored is not None:
        _colorbar(fig, axes, page.colored, page.styles["colorbar"], fixed)
    return fig, axes


def _margins(fig: Figure, panels: Panels, page: Page) -> dict[str, float]:
    """Arguments of `Figure.subplots_adjust` that leave room for ticks, title and what is beside."""
    width, height = fig.get_size_inches()
    x_ticks, y_ticks = panels.style.ticks
    left, right = 0.7 if y_ticks else 0.2, 0.2 + page.beside + (0.8 if page.colored is not None else 0)
    bottom, top = 0.4 if x_ticks else 0.2, 0.3 + 0.25 * len(page.title.splitlines()) + page.above
    # Small figures keep at least a third of their width and height for the panels.
    across, up = max(1.0, 1.5 * (left + right) / width), max(1.0, 1.5 * (bottom + top) / height)
    gap = _GAP if page.tight is None else page.tight
    return {
        "left": left / across / width,
        "right": 1 - right / across / width,
        "bottom": bottom / up / height,
        "top": 1 - top / up / height,
        "wspace": gap,
        "hspace": gap,
    }


def _label_gaps(fig: Figure, panels: Panels) -> dict[str, float]:
    """Gaps that tick labels need between panels that do not share their limits, over those of `_margins`."""
    (width, height), grid = fig.get_size_inches(), panels.grid
    own_x, own_y = panels.own_labels()
    gaps = {"wspace": min(1.0, _Y_LABEL * grid.cols / width)} if own_y and grid.cols > 1 else {}
    return gaps | ({"hspace": min(1.0, _X_LABEL * grid.rows / height)} if own_x and grid.rows > 1 else {})


def _colorbar(
    fig: Figure, axes: np.ndarray, colored: ScalarMappable, style: Mapping[str, Any], fixed: bool
) -> None:
    if not fixed:
        fig.colorbar(colored, ax=list(axes.flat), **style)
        return
    current = fig.gca()
    params, width = fig.subplotpars, fig.get_size_inches()[0]
    place = (params.right + 0.15 / width, params.bottom, 0.2 / width, params.top - params.bottom)
    fig.colorbar(colored, cax=fig.add_axes(place, label="<colorbar>"), **style)
    fig.sca(current)
