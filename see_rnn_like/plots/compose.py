"""A figure made of a grid of panels: its layout, its title, its colour bar."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from see_rnn_like.plots.figure import Styles, add_title, new_figure
from see_rnn_like.plots.panels import REAL_AXES, Layout, Panels

#: Figure arguments of `pyplot.subplots` that do not change the grid of axes, so a canvas can keep to them.
_GRID_SUBPLOT = {"figsize", "dpi", "facecolor", "edgecolor", "frameon", "num", "clear"}


def compose(
    panels: Panels,
    title: str,
    kw: Styles,
    scale: tuple[float, float],
    tight: bool,
    plain: bool,
    colored: ScalarMappable | None = None,
) -> tuple[Figure, np.ndarray]:
    """Makes the figure: its layout, panels, colour bar and title.

    Args:
        panels: what is drawn.
        title: the figure's title, empty for none.
        kw: the styles.
        scale: factors of width and height.
        tight: no room between the panels.
        plain: whether the panels are styled with nothing a canvas could not do.
        colored: what a colour bar is drawn for; None for none.
    """
    subplot = dict(kw["subplot"])
    asleep = (
        panels.grid.count > REAL_AXES
        and plain
        and panels.style.fits_canvas()
        and set(subplot) <= _GRID_SUBPLOT
    )
    fig = new_figure(subplot, *scale)
    if asleep or tight or kw["tight"]:
        _layout(panels, title, tight, colored is not None).apply(fig)
    else:
        fig.set_layout_engine("constrained")
    fig.subplots_adjust(**kw["tight"]) if kw["tight"] else None
    axes = panels.draw_sleeping(fig) if asleep else panels.draw_real(fig, **subplot)
    if tight and not asleep:
        for panel in range(panels.grid.count):
            panels.hide_inner_labels(axes.flat[panel], panel)
    add_title(fig, title, kw["title"])
    if colored is not None:
        _colorbar(fig, axes, colored, kw["colorbar"], asleep or tight)
    return fig, axes


def _layout(panels: Panels, title: str, tight: bool, colorbar: bool) -> Layout:
    space = 0.0 if tight else 0.12
    x, y = panels.style.ticks
    return Layout(
        left=0.7 if y else 0.2,
        right=1.0 if colorbar else 0.2,
        bottom=0.4 if x else 0.2,
        top=0.3 + 0.25 * len(title.splitlines()),
        wspace=space,
        hspace=space,
    )


def _colorbar(
    fig: Figure, axes: np.ndarray, colored: ScalarMappable, style: Mapping[str, Any], beside: bool
) -> None:
    if not beside:
        fig.colorbar(colored, ax=list(axes.flat), **style)
        return
    params, width = fig.subplotpars, fig.get_size_inches()[0]
    cax = fig.add_axes((params.right + 0.15 / width, params.bottom, 0.2 / width, params.top - params.bottom))
    fig.colorbar(colored, cax=cax, **style)
    fig.sca(fig.axes[0])
