"""What layers put out, and its gradients: points, curves, heatmaps, histograms by channel or sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator, NullLocator

from see_rnn_like.errors import ArgumentError
from see_rnn_like.plots.colors import bad_visible, color_limits, curve_colors, point_colors
from see_rnn_like.plots.compose import Page, compose
from see_rnn_like.plots.drawings import Curves, Heatmaps, draw_points, image_limits
from see_rnn_like.plots.figure import (
    Configs,
    Savepath,
    Styles,
    drawn_whole,
    merge_styles,
    new_figure,
    pair,
    save_figures,
    two_numbers,
)
from see_rnn_like.plots.grid import Grid, share_limits, share_words, whole_locator, widen
from see_rnn_like.plots.panels import REAL_AXES, Panels, PanelStyle, panel_texts
from see_rnn_like.plots.titles import title_0d, title_1d, title_2d, with_counts
from see_rnn_like.stats import number_arrays

#: Up to so many samples `features_0D` has a small tick for each.
_MINOR_TICKS = 200

_CURVES = "(samples, timesteps, channels) or (timesteps, channels)"
_ANNOTATION = {"weight": "bold", "color": "g", "xy": (0.03, 0.95), "xycoords": "axes fraction", "va": "top"}
_LINE_STYLE = {"linewidth", "alpha", "linestyle", "color"}


def features_0D(
    data: Any,
    marker: Any = "o",
    cmap: str | Colormap = "bwr",
    color: Any = None,
    configs: Configs | None = None,
    *,
    w: float = 1,
    h: float = 1,
    show_borders: bool = False,
    title: bool | str = "outputs",
    show_y_zero: bool = True,
    ylims: Any = "auto",
    savepath: Savepath | None = None,
) -> tuple[Figure, Axes]:
    """Draws one point per sample and channel: values above their sample, a colour per channel.

    For outputs and gradients of layers without a time axis. NaN and Inf get a mark on the bottom edge at
    their sample and are counted in the title. The figure is always a new one.

    Args:
        data: ``(samples, channels)``.
        marker: shape of the points, as in `Axes.scatter`.
        cmap: colour map the channels take their colours from, first to last.
        color: one colour for all, one per channel, or one per point in the order of ``data.ravel()``; in
            place of `cmap`.
        configs: keyword arguments per drawing element: ``plot`` (`Axes.scatter`), ``subplot``
            (`pyplot.figure`), ``title`` (`Axes.set_title`), ``save`` (`Figure.savefig`).
        w: factor of the figure's width, 12 inches.
        h: factor of the figure's height, 4 inches.
        show_borders: draw a frame.
        title: as in `features_1D`.
        show_y_zero: draw the line y = 0.
        ylims: y limits; ``"auto"`` for ±max|data|.
        savepath: file to write the figure to.

    Returns:
        The figure and its axes.

    Raises:
        ArgumentError: for data of other dimensions or without values, and other arguments out of range.
        ArgumentTypeError: for data that is not numbers.

    Example:
        >>> import numpy as np
        >>> fig, ax = features_0D(np.random.default_rng(0).normal(size=(16, 6)), title="grads")
        >>> ax.get_title()
        '(Gradients vs. Samples) vs. Channels'
    """
    with drawn_whole(configs, savepath):
        values = _numbers(data, (2,), "(samples, channels)")
        subplot = {"dpi": 76, "figsize": (12, 4)}
        kw = merge_styles(
            configs, {"plot": {"s": 15}, "subplot": subplot, "title": {"weight": "bold"}, "save": {}}
        )
        auto = isinstance(ylims, str) and ylims == "auto"
        limits = color_limits(np.ma.masked_invalid(values), "auto") if auto else two_numbers("ylims", ylims)
        colors = point_colors(color, cmap, values.shape)
        fig = new_figure(dict(kw["subplot"]), w, h)
        fig.set_layout_engine("constrained")
        ax = fig.add_subplot()
        if show_y_zero:
            ax.axhline(0, color="k", linewidth=1)
        draw_points(ax, values, colors, marker, kw["plot"], clip=not auto)
        ax.set_ylim(*limits)
        ax.set_xlabel("Sample")
        ax.set_xlim(0.5, len(values) + 0.5)
        ax.xaxis.set_major_locator(whole_locator())
        ax.xaxis.set_minor_locator(MultipleLocator(1) if len(values) <= _MINOR_TICKS else NullLocator())
        ax.set_frame_on(show_borders)
        words = title_0d(title)
        ax.set_title(with_counts(words, values) if words else "", **kw["title"])
        save_figures([fig], savepath, kw["save"])
        return fig, ax


def features_1D(
    data: Any,
    n_rows: int | None = None,
    annotations: str | Sequence[str] | None = "auto",
    share_xy: Any = (1, 1),
    max_timesteps: int | None = None,
    subplot_samples: bool = False,
    configs: Configs | None = None,
    *,
    w: float = 1,
    h: float = 1,
    show_borders: bool = True,
    show_xy_ticks: Any = (1, 1),
    title: bool | str = "outputs",
    show_y_zero: bool = False,
    tight: bool = False,
    borderwidth: float | None = None,
    color: Any = None,
    savepath: Savepath | None = None,
) -> tuple[Figure, np.ndarray]:
    """Draws curves over time, one panel per channel, one curve per sample.

    NaN and Inf leave a gap, get a mark on the bottom edge of the panel, and are counted in the title.
    Large grids are drawn on one axes; every panel handed out becomes a real one when it is used, see
    `see_rnn_like.plots.canvas`.

    Args:
        data: ``(samples, timesteps, channels)``, or ``(timesteps, channels)`` for one sample.
        n_rows: rows of the grid; None for a nearly square one. Empty places are hidden.
        annotations: texts of the panels; ``"auto"`` for their index, None for none. A short list leaves
            the last panels without.
        share_xy: which panels have common x and y limits: True, False, ``"row"`` or ``"col"``, or a pair
            of these.
        max_timesteps: draw only so many timesteps from the first on.
        subplot_samples: one panel per sample, one curve per channel; for 2D data, which then is
            ``(timesteps, samples)``, only the title changes.
        configs: keyword arguments per drawing element: ``plot`` (`Axes.plot`), ``subplot``
            (`pyplot.subplots`), ``title``, ``tight`` (`Figure.subplots_adjust`), ``annot``
            (`Axes.annotate`), ``save`` (`Figure.savefig`).
        w: factor of the figure's width, 10 inches.
        h: factor of the figure's height, 10 inches.
        show_borders: draw frames around the panels.
        show_xy_ticks: show x and y ticks.
        title: ``"outputs"``, ``"grads"``, ``"generic"`` or True for a title that names the axes; another
            text for itself; False for none.
        show_y_zero: draw the line y = 0.
        tight: leave no room between the panels.
        borderwidth: width of the frames in points.
        color: one colour for all curves, or one per curve of a panel; None for matplotlib's cycle.
        savepath: file to write the figure to.

    Returns:
        The figure and the axes ``(row, col)``.

    Raises:
        ArgumentError: for data of other dimensions or without values, and other arguments out of range.
        ArgumentTypeError: for data that is not numbers.

    Example:
        >>> import numpy as np
        >>> fig, axes = features_1D(np.random.default_rng(0).normal(size=(2, 50, 6)), n_rows=2)
        >>> axes.shape
        (2, 3)
    """
    with drawn_whole(configs, savepath):
        kw = _styles(configs, plot={}, annot=_ANNOTATION)
        values = _numbers(data, (2, 3), _CURVES)
        curves = _curves_by_panel(values, subplot_samples)[..., : _timesteps(max_timesteps)]
        style = {
            "linewidth": 1.0 if len(curves) > REAL_AXES else mpl.rcParams["lines.linewidth"],
            **kw["plot"],
        }
        drawing = Curves(curves, curve_colors(color, curves.shape[1]), style, show_y_zero)
        share = share_words(share_xy)
        grid = Grid.of(len(curves), n_rows)
        panels = Panels(
            grid,
            drawing,
            PanelStyle(
                pair("show_xy_ticks", show_xy_ticks),
                show_borders,
                borderwidth,
                None,
                panel_texts(annotations, grid.count),
                kw["annot"],
            ),
            np.tile([0.0, curves.shape[2]], (len(curves), 1)),
            widen(share_limits(drawing.ranges(), grid.groups(share[1]))),
            share,
        )
        words = title_1d(title, values.ndim, subplot_samples)
        words = with_counts(words, curves) if words else ""
        page = Page(words, kw, w, h, 0.0 if tight else None)
        fig, axes = compose(panels, page, set(kw["plot"]) <= _LINE_STYLE)
        save_figures([fig], savepath, kw["save"])
        return fig, axes


def features_2D(
    data: Any,
    n_rows: int | None = None,
    norm: Any = None,
    cmap: str | Colormap = "bwr",
    reflect_half: bool = False,
    timesteps_xaxis: bool = False,
    max_timesteps: int | None = None,
    share_xy: Any = (1, 1),
    configs: Configs | None = None,
    *,
    w: float = 1,
    h: float = 1,
    show_borders: bool = True,
    show_xy_ticks: Any = (1, 1),
    show_colorbar: bool = False,
    title: bool | str = "outputs",
    tight: bool = False,
    channel_axis: int = -1,
    borderwidth: float | None = None,
    bordercolor: Any = None,
    savepath: Savepath | None = None,
) -> tuple[Figure, np.ndarray]:
    """Draws heatmaps of channels against time, one panel per sample, all in the same colours.

    NaN and Inf are drawn in a colour of their own and counted in the title; colour limits come from the
    finite values. Large grids are drawn on one axes; every panel handed out becomes a real one when it is
    used, see `see_rnn_like.plots.canvas`.

    Args:
        data: ``(samples, timesteps, channels)``, or ``(timesteps, channels)`` for one sample.
        n_rows: rows of the grid; None for a nearly square one. Empty places are hidden.
        norm: values of the first and the last colour; ``"auto"`` for ±max|data|; None for the range of the
            data, symmetric about 0 if the data has both signs (so that 0 is the middle colour).
        cmap: colour map.
        reflect_half: turn the second half of the channels round in time: the backward half of a
            bidirectional layer then reads in the order it ran.
        timesteps_xaxis: time along x and channels along y, instead of the other way round.
        max_timesteps: draw only so many timesteps from the first on.
        share_xy: which panels share their x and y axes, as in `features_1D`. All have the same limits.
        configs: keyword arguments per drawing element: ``plot`` (`Axes.imshow`), ``subplot``
            (`pyplot.subplots`), ``title``, ``tight`` (`Figure.subplots_adjust`), ``colorbar``
            (`Figure.colorbar`), ``save`` (`Figure.savefig`).
        w: factor of the figure's width, 10 inches.
        h: factor of the figure's height, 10 inches.
        show_borders: draw frames around the panels.
        show_xy_ticks: show x and y ticks.
        show_colorbar: draw one colour bar for all panels.
        title: as in `features_1D`.
        tight: leave no room between the panels.
        channel_axis: −1, or 0 for data ``(channels, timesteps, samples)`` or ``(channels, timesteps)``.
        borderwidth: width of the frames in points.
        bordercolor: colour of the frames.
        savepath: file to write the figure to.

    Returns:
        The figure and the axes ``(row, col)``.

    Raises:
        ArgumentError: for data of other dimensions or without values, and other arguments out of range.
        ArgumentTypeError: for data that is not numbers.

    Example:
        >>> import numpy as np
        >>> grads = np.random.default_rng(0).normal(size=(4, 50, 6))
        >>> fig, axes = features_2D(grads, norm=(-0.01, 0.01), title="grads", timesteps_xaxis=True)
        >>> axes[0, 0].images[0].get_array().shape
        (6, 50)
    """
    with drawn_whole(configs, savepath):
        kw = _styles(configs, plot={}, colorbar={})
        values = _channels_last(_numbers(data, (2, 3), _CURVES), channel_axis)
        images = (values if values.ndim == 3 else values[None])[:, : _timesteps(max_timesteps)]
        images = _backward_half_turned(images) if reflect_half else images
        images = np.ma.masked_invalid(images.swapaxes(1, 2) if timesteps_xaxis else images)
        limits = color_limits(images, norm)
        drawing = Heatmaps(images, bad_visible(cmap), Normalize(*limits), kw["plot"])
        n, height, width = images.shape
        panels = Panels(
            Grid.of(n, n_rows),
            drawing,
            PanelStyle(pair("show_xy_ticks", show_xy_ticks), show_borders, borderwidth, bordercolor),
            *image_limits(n, height, width, kw["plot"]),
            share_words(share_xy),
        )
        words = title_2d(title, values.ndim, timesteps_xaxis, limits)
        words = with_counts(words, images) if words else ""
        colored = ScalarMappable(drawing.norm, drawing.cmap) if show_colorbar else None
        page = Page(words, kw, w, h, 0.0 if tight else None, colored)
        fig, axes = compose(panels, page, not kw["plot"])
        save_figures([fig], savepath, kw["save"])
        return fig, axes


def _styles(configs: Configs | None, **elements: dict[str, Any]) -> Styles:
    common: Styles = {
        "subplot": {"dpi": 76, "figsize": (10, 10)},
        "title": {"weight": "bold"},
        "tight": {},
        "save": {},
    }
    return merge_styles(configs, elements | common)


def _numbers(data: Any, dims: tuple[int, ...], expected: str) -> np.ndarray:
    """The data as a floating-point array of one of these numbers of dimensions."""
    arrays = number_arrays(data)
    shapes = ", ".join(str(array.shape) for array in arrays[:3])
    if len(arrays) > 1 or arrays[0].ndim not in dims:
        raise ArgumentError(f"data must be {expected}; got shape {shapes}")
    if not arrays[0].size:
        raise ArgumentError(f"data must be {expected} and not empty; got shape {shapes}")
    return arrays[0] if arrays[0].dtype in (np.float32, np.float64) else arrays[0].astype("float64")


def _timesteps(max_timesteps: int | None) -> int | None:
    if max_timesteps is not None and not (
        isinstance(max_timesteps, (int, np.integer)) and max_timesteps >= 1
    ):
        raise ArgumentError(f"max_timesteps is a whole number ≥ 1 or None; got {max_timesteps!r}")
    return max_timesteps


def _curves_by_panel(values: np.ndarray, subplot_samples: bool) -> np.ndarray:
    """``(panel, curve, timestep)``."""
    if values.ndim == 2:
        return values.T[:, None]
    return values.transpose(0, 2, 1) if subplot_samples else values.transpose(2, 0, 1)


def _channels_last(values: np.ndarray, channel_axis: int) -> np.ndarray:
    if channel_axis in (-1, values.ndim - 1):
        return values
    if channel_axis == 0:
        return values.T
    raise ArgumentError(f"channel_axis is -1, or 0 for (channels, timesteps, samples); got {channel_axis!r}")


def _backward_half_turned(images: np.ndarray) -> np.ndarray:
    """A copy ``(sample, time, channel)`` whose second half of the channels runs backwards in time."""
    turned = images.copy()
    half = images.shape[2] // 2
    turned[:, :, half:] = images[:, ::-1, half:]
    return turned
