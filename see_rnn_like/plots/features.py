"""What layers put out, and its gradients: points, curves, heatmaps, histograms by channel or sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure

from see_rnn_like.errors import ArgumentError
from see_rnn_like.plots.compose import compose
from see_rnn_like.plots.drawings import Curves, Heatmaps, color_limits, curve_colors
from see_rnn_like.plots.figure import (
    Configs,
    Savepath,
    Styles,
    bad_visible,
    merge_styles,
    nonfinite_note,
    pair,
    save_figures,
)
from see_rnn_like.plots.grid import Grid, share_limits, share_word, widen
from see_rnn_like.plots.panels import REAL_AXES, Panels, PanelStyle
from see_rnn_like.stats import number_arrays

_FEATURE = {"grads": "Gradients", "outputs": "Outputs", "generic": "Context-feature"}
_CONTEXT = {"grads": "Timesteps", "outputs": "Timesteps", "generic": "Context-units"}

_LINE_STYLE = {"linewidth", "alpha", "linestyle", "color"}


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
    `see_rnn_like.plots.panels`.

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
    kw = _styles(configs, plot={}, annot=_annotation(xy=(0.03, 0.95), va="top"))
    values = _numbers(data, (2, 3))
    curves = _curves_by_panel(values, subplot_samples)[..., : _timesteps(max_timesteps)]
    style = {"linewidth": 1.0 if len(curves) > REAL_AXES else mpl.rcParams["lines.linewidth"], **kw["plot"]}
    drawing = Curves(curves, curve_colors(color, curves.shape[1]), style, show_y_zero)
    share = _shares(share_xy)
    grid = Grid.of(len(curves), n_rows)
    panels = Panels(
        grid,
        drawing,
        PanelStyle(
            pair("show_xy_ticks", show_xy_ticks),
            show_borders,
            borderwidth,
            None,
            *_texts(annotations, kw, grid),
        ),
        np.tile([0.0, curves.shape[2]], (len(curves), 1)),
        widen(share_limits(drawing.ranges(), grid.groups(share[1]))),
        share,
    )
    words = title_1d(title, values.ndim, subplot_samples)
    fig, axes = compose(panels, _titled(words, curves), kw, (w, h), tight, set(kw["plot"]) <= _LINE_STYLE)
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
    used, see `see_rnn_like.plots.panels`.

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
    kw = _styles(configs, plot={}, colorbar={})
    values = _channels_last(_numbers(data, (2, 3)), channel_axis)
    images = values[..., : _timesteps(max_timesteps), :].reshape(-1, *values.shape[-2:])[
        :, : _timesteps(max_timesteps)
    ]
    images = _backward_half_turned(images) if reflect_half else images
    images = np.ma.masked_invalid(images.swapaxes(1, 2) if timesteps_xaxis else images)
    limits = color_limits(images, norm)
    drawing = Heatmaps(images, bad_visible(cmap), Normalize(*limits), kw["plot"])
    n, height, width = images.shape
    panels = Panels(
        Grid.of(n, n_rows),
        drawing,
        PanelStyle(pair("show_xy_ticks", show_xy_ticks), show_borders, borderwidth, bordercolor),
        np.tile([-0.5, width - 0.5], (n, 1)),
        np.tile([height - 0.5, -0.5], (n, 1)),
        _shares(share_xy),
    )
    words = title_2d(title, values.ndim, timesteps_xaxis, limits)
    fig, axes = compose(
        panels,
        _titled(words, images),
        kw,
        (w, h),
        tight,
        not kw["plot"],
        ScalarMappable(drawing.norm, drawing.cmap) if show_colorbar else None,
    )
    save_figures([fig], savepath, kw["save"])
    return fig, axes


def title_1d(title: bool | str, ndim: int, subplot_samples: bool) -> str:
    """The title of `features_1D`: one that names the axes, a text as it is, or none.

    Example:
        >>> title_1d("grads", 3, False), title_1d("My net", 3, False), title_1d(False, 2, True)
        ('((Gradients vs. Timesteps) vs. Samples) vs. Channels', 'My net', '')
    """
    if (word := _title_word(title)) not in _FEATURE:
        return word
    curves, panels = ("Channels", "Samples") if subplot_samples else ("Samples", "Channels")
    plain = f"({_FEATURE[word]} vs. {_CONTEXT[word]})"
    return f"({plain} vs. {curves}) vs. {panels}" if ndim == 3 else f"{plain} vs. {panels}"


def title_2d(title: bool | str, ndim: int, timesteps_xaxis: bool, limits: tuple[float, float]) -> str:
    """The title of `features_2D`: ``((y vs. x) vs. colour) vs. panels -- norm``.

    Example:
        >>> title_2d("grads", 2, True, (-0.5, 0.5))
        '(Channels vs. Timesteps) vs. Gradients -- norm=(-0.5, 0.5)'
    """
    if (word := _title_word(title)) not in _FEATURE:
        return word
    rows, columns = ("Channels", _CONTEXT[word]) if timesteps_xaxis else (_CONTEXT[word], "Channels")
    plain = f"({rows} vs. {columns}) vs. {_FEATURE[word]}"
    panels = f"({plain}) vs. Samples" if ndim == 3 else plain
    return f"{panels} -- norm=({limits[0]:.4G}, {limits[1]:.4G})"


def _title_word(title: bool | str | None) -> str:
    if title is True:
        return "generic"
    return title or ""


def _titled(title: str, *arrays: Any) -> str:
    """The title with the counts of NaN and Inf; a caller who wants no title gets none."""
    note = nonfinite_note(*(np.ma.getdata(array) for array in arrays)) if title else ""
    return f"{title}\n{note}" if note else title


def _styles(configs: Configs | None, **elements: dict[str, Any]) -> Styles:
    common: Styles = {
        "subplot": {"dpi": 76, "figsize": (10, 10)},
        "title": {"weight": "bold"},
        "tight": {},
        "save": {},
    }
    return merge_styles(configs, elements | common)


def _annotation(**style: Any) -> dict[str, Any]:
    return {"weight": "bold", "color": "g", "xycoords": "axes fraction", **style}


def _shares(share_xy: Any) -> tuple[str, str]:
    x, y = pair("share_xy", share_xy)
    return share_word("share_xy", x), share_word("share_xy", y)


def _texts(annotations: Any, kw: Styles, grid: Grid) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Texts of the panels and their style."""
    if isinstance(annotations, str) and annotations != "auto":
        raise ArgumentError(
            f"annotations is 'auto', None or a list of texts, one per panel; got {annotations!r}"
        )
    texts = range(grid.count) if isinstance(annotations, str) else annotations or ()
    return tuple(str(text) for text in texts), kw["annot"]


def _numbers(data: Any, dims: tuple[int, ...]) -> np.ndarray:
    """The data as a floating-point array of one of these numbers of dimensions."""
    array = number_arrays(data)[0]
    expected = {2: "(timesteps, channels)", 3: "(samples, timesteps, channels)"}
    if array.ndim not in dims:
        raise ArgumentError(f"data must be {' or '.join(expected[n] for n in dims)}; got shape {array.shape}")
    if not array.size:
        raise ArgumentError(f"data is empty: shape {array.shape}")
    return array if array.dtype in (np.float32, np.float64) else array.astype("float64")


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
