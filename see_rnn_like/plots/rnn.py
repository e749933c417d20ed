"""Weights of a recurrent layer, or their gradients, by direction, kernel and gate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from see_rnn_like.errors import one_of
from see_rnn_like.plots.colors import bad_visible, color_limits, line_color, one_sided
from see_rnn_like.plots.drawings import mark_bad_cells
from see_rnn_like.plots.figure import (
    LEGIBLE,
    Configs,
    Savepath,
    Styles,
    add_title,
    drawn_whole,
    merge_styles,
    new_figure,
    nonfinite_note,
    pair,
    save_figures,
)
from see_rnn_like.plots.grid import finite_range, whole_locator
from see_rnn_like.plots.sheets import Sheet, matrix, recurrent_sheets
from see_rnn_like.plots.steps import literal
from see_rnn_like.stats import detect_nans

_TITLES = {"kernel": "KERNEL", "recurrent_kernel": "RECURRENT", "bias": "BIAS"}
_ROWS = {"input": "Channel units", "state": "Hidden units", "axis_0": "kernel row", "axis_1": "kernel column"}

#: Width of the figure for one x tick of a histogram, in inches.
_TICK_ROOM = 0.8


def rnn_histogram(
    model: Any,
    _id: Any,
    layer: Any = None,
    input_data: Any = None,
    labels: Any = None,
    mode: str = "weights",
    equate_axes: int = 1,
    data: Sequence[Any] | None = None,
    configs: Configs | None = None,
    *,
    w: float = 1,
    h: float = 1,
    show_borders: bool = False,
    show_xy_ticks: Any = (1, 1),
    show_bias: bool = True,
    bins: Any = 150,
    savepath: Savepath | None = None,
) -> tuple[list[Figure], list[np.ndarray]]:
    """Draws the distribution of each gate of a recurrent layer's weights, or of their gradients.

    One figure per direction: a row per gate, a column per kernel, the bias below; heights are densities
    over the finite values. How much of a gate is NaN or Inf is written on it.

    Args:
        model: a built Keras 3 model; None if `data` or `layer` says enough.
        _id: name or index of the layer, as in `get_layer`.
        layer: the layer itself; overrides `_id`.
        input_data: inputs for the gradient; only for ``mode="grads"``.
        labels: targets for the gradient; only for ``mode="grads"``; None if `input_data` yields them.
        mode: ``"weights"``, or ``"grads"`` for the gradients of the loss with respect to them.
        equate_axes: 0: every panel has its own limits; 1: all kernel panels of a figure have the same;
            2: of all figures, and x is symmetric about 0. The bias has its own.
        data: arrays to draw instead, as `get_rnn_weights` or ``get_gradients(mode="weights")`` return them
            for the layer: ``[kernel, recurrent_kernel, bias]``, without a bias if there is none, for a
            Bidirectional layer the forward ones, then the backward ones, for stacked cells one cell after
            the other. Each is an array, a list with one array per gate, or an xarray.DataArray with a
            dimension ``gate``. Gate names come from the layer; without `model` and `layer`, gates are
            counted (by the shape of the recurrent kernel) and numbered.
        configs: keyword arguments per drawing element: ``plot`` and ``plot-bias`` (`Axes.hist`),
            ``subplot`` (`pyplot.subplots`), ``tight`` (`Figure.subplots_adjust`), ``title``,
            ``subtitle`` (`Axes.set_title`), ``xlabel``, ``ylabel``, ``annot`` and ``annot-nan``
            (`Axes.annotate`), ``save`` (`Figure.savefig`).
        w: factor of the figures' width, 9 inches.
        h: factor of the figures' height, 9 inches.
        show_borders: draw frames around the panels.
        show_xy_ticks: show x and y ticks.
        show_bias: draw the bias too.
        bins: number of bins, or their edges.
        savepath: file to write the figure to; two figures go to ``name_0.ext`` and ``name_1.ext``.

    Returns:
        The figures and their axes, one entry per direction; axes are ``(gate, kernel)``, with a last row
        for the bias, whose one axes stands in every column.

    Raises:
        UnknownLayerError: if the id matches nothing.
        UnsupportedLayerError: if the layer is not recurrent or its cell is not registered.
        ArgumentError: for data that does not fit the layer, and other arguments out of range.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> kernel, recurrent, bias = rng.normal(size=(5, 12)), rng.normal(size=(3, 12)), np.zeros(12)
        >>> figs, axes = rnn_histogram(None, None, data=[kernel, recurrent, bias])
        >>> axes[0].shape
        (5, 2)
    """
    with drawn_whole(configs, savepath):
        if equate_axes not in (0, 1, 2):
            raise one_of("equate_axes", equate_axes, (0, 1, 2))
        kw = _styles(
            configs,
            (9, 9),
            {
                "plot": {"bins": bins, "density": True},
                "plot-bias": {"bins": bins, "density": True},
                "annot": {
                    "fontsize": 12,
                    "weight": "bold",
                    "xy": (0.98, 0.95),
                    "ha": "right",
                    "va": "top",
                    **LEGIBLE,
                },
            },
        )
        sheets = recurrent_sheets(model, _id, layer, input_data, labels, mode, data)
        ticks = pair("show_xy_ticks", show_xy_ticks)
        figs, axes = [], []
        for sheet in sheets:
            gates, share = len(sheet.gates), bool(equate_axes)
            fig, grid = _figure(sheet, kw, (w, h), gates, (2 * gates, 1), show_bias, share)
            _fill_histograms(sheet, grid, kw, ticks, show_borders)
            figs.append(fig)
            axes.append(grid)
        if equate_axes:
            kernels = [grid[: len(sheet.gates)] for sheet, grid in zip(sheets, axes, strict=True)]
            for together in [kernels] if equate_axes == 2 else [[grid] for grid in kernels]:
                _equate(together, equate_axes == 2)
        save_figures(figs, savepath, kw["save"])
        return figs, axes


def rnn_heatmap(
    model: Any,
    _id: Any,
    layer: Any = None,
    input_data: Any = None,
    labels: Any = None,
    mode: str = "weights",
    cmap: str | Colormap | None = "bwr",
    norm: Any = "auto",
    data: Sequence[Any] | None = None,
    configs: Configs | None = None,
    *,
    w: float = 1,
    h: float = 1,
    show_borders: bool = True,
    show_colorbar: bool = True,
    show_bias: bool = True,
    gate_sep_width: float = 1,
    normalize: bool = False,
    absolute_value: bool = False,
    savepath: Savepath | None = None,
) -> tuple[list[Figure], list[np.ndarray]]:
    """Draws the weights of a recurrent layer, or their gradients, as heatmaps with the gates set apart.

    One figure per direction: the kernels side by side, the bias as a strip below, all in the same
    colours. Values beyond the first or last colour are told by a pointed end of the colour bar, and those
    of the bias by its range under the strip. NaN and Inf are drawn in a colour of their own and counted,
    by gate, in the titles.

    Args:
        model: a built Keras 3 model; None if `data` or `layer` says enough.
        _id: name or index of the layer, as in `get_layer`.
        layer: the layer itself; overrides `_id`.
        input_data: inputs for the gradient; only for ``mode="grads"``.
        labels: targets for the gradient; only for ``mode="grads"``; None if `input_data` yields them.
        mode: ``"weights"``, or ``"grads"`` for the gradients of the loss with respect to them.
        cmap: colour map; None for the grey ``"bone"``, for values ≥ 0. With `absolute_value`, of a diverging
            one named after matplotlib's the upper half, so that its neutral middle is 0 here too.
        norm: values of the first and the last colour. ``"auto"``: ±max over the kernels of all directions,
            without the bias; with `absolute_value`: 0 … max; with `normalize`: 0 … 1. None: their range,
            symmetric about 0 if there are both signs.
        data: arrays to draw instead, as in `rnn_histogram`.
        configs: keyword arguments per drawing element: ``plot`` and ``plot-bias`` (`Axes.imshow`),
            ``subplot`` (`pyplot.subplots`), ``tight`` (`Figure.subplots_adjust`), ``title``,
            ``subtitle`` (`Axes.set_title`), ``xlabel``, ``ylabel``, ``colorbar`` (`Figure.colorbar`),
            ``save`` (`Figure.savefig`).
        w: factor of the figures' width, 14 inches.
        h: factor of the figures' height, 8 inches.
        show_borders: draw frames around the heatmaps.
        show_colorbar: draw a colour bar.
        show_bias: draw the bias too.
        gate_sep_width: width in points of the lines between gates; 0 for none.
        normalize: scale each weight to 0 … 1; after `absolute_value`.
        absolute_value: draw sizes.
        savepath: file to write the figure to; two figures go to ``name_0.ext`` and ``name_1.ext``.

    Returns:
        The figures and their axes, one entry per direction; axes are ``(1, kernel)``, with a second row for
        the bias, whose one axes stands in every column.

    Raises:
        UnknownLayerError: if the id matches nothing.
        UnsupportedLayerError: if the layer is not recurrent or its cell is not registered.
        ArgumentError: for data that does not fit the layer, and other arguments out of range.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> kernel, recurrent, bias = rng.normal(size=(5, 12)), rng.normal(size=(3, 12)), np.zeros(12)
        >>> figs, axes = rnn_heatmap(None, None, data=[kernel, recurrent, bias])
        >>> axes[0].shape
        (2, 2)
    """
    with drawn_whole(configs, savepath):
        kw = _styles(configs, (14, 8), {"plot": {}, "plot-bias": {}, "colorbar": {"fraction": 0.03}})
        sheets = recurrent_sheets(model, _id, layer, input_data, labels, mode, data)
        sheets = [sheet.mapped(np.abs) for sheet in sheets] if absolute_value else sheets
        sheets = [sheet.mapped(_scaled_to_one) for sheet in sheets] if normalize else sheets
        auto = isinstance(norm, str) and norm == "auto"
        matrices = [
            np.ma.masked_invalid(matrix(kernel)).ravel() for sheet in sheets for kernel in sheet.kernels
        ]
        if auto and absolute_value:
            matrices.append(np.ma.zeros(1))
        limits = color_limits(
            np.ma.concatenate(matrices), None if auto and (absolute_value or normalize) else norm
        )
        found = bad_visible("bone" if cmap is None else cmap)
        colors = {"cmap": one_sided(found) if absolute_value else found, "norm": Normalize(*limits)}
        figs, axes = [], []
        for sheet in sheets:
            fig, grid = _figure(sheet, kw, (w, h), 1, (8, 1), show_bias, False)
            images = _fill_heatmaps(sheet, grid, kw, colors, gate_sep_width, show_borders)
            if show_colorbar:
                fig.colorbar(images[0], ax=list(grid[0]), **{"extend": _extend(images), **kw["colorbar"]})
            figs.append(fig)
            axes.append(grid)
        save_figures(figs, savepath, kw["save"])
        return figs, axes


def _scaled_to_one(block: xr.DataArray) -> xr.DataArray:
    low, high = finite_range(block.values, tuple(range(block.ndim)))
    return (block - low) / (high - low if high > low else 1.0)


def _styles(configs: Configs | None, figsize: tuple[float, float], elements: Styles) -> Styles:
    bold = {"fontsize": 12, "weight": "bold"}
    common: Styles = {
        "subplot": {"dpi": 76, "figsize": figsize},
        "tight": {},
        "title": {"weight": "bold"},
        "subtitle": {"fontsize": 13, "weight": "bold"},
        "xlabel": bold,
        "ylabel": bold,
        "annot-nan": {
            "fontsize": 12,
            "weight": "bold",
            "color": "red",
            "xy": (0.02, 0.95),
            "va": "top",
            **LEGIBLE,
        },
        "save": {},
    }
    return merge_styles(configs, elements | common)


def _figure(
    sheet: Sheet,
    kw: Styles,
    scale: tuple[float, float],
    rows: int,
    heights: tuple[float, float],
    show_bias: bool,
    share: bool,
) -> tuple[Figure, np.ndarray]:
    """An empty figure with its axes: rows of one axes per kernel, the bias in a last row of its own.

    Args:
        sheet: what it will show.
        kw: the styles.
        scale: factors of width and height.
        rows: rows of the kernels.
        heights: relative heights of all rows of the kernels and of the bias.
        show_bias: whether the bias is drawn, if there is one.
        share: whether the kernels share their axes.
    """
    subplot = {"sharex": share, "sharey": share, **kw["subplot"]}
    fig = new_figure(subplot, *scale)
    fig.set_layout_engine("none" if kw["tight"] else "constrained")
    if kw["tight"]:
        fig.subplots_adjust(**kw["tight"])
    add_title(fig, sheet.title and literal(sheet.title), kw["title"])
    with_bias = show_bias and sheet.bias is not None
    spec = fig.add_gridspec(1 + with_bias, 1, height_ratios=heights[: 1 + with_bias])
    axes = spec[0].subgridspec(rows, len(sheet.kernels)).subplots(squeeze=False, **subplot)
    if with_bias:
        axes = np.vstack([axes, [fig.add_subplot(spec[1])] * len(sheet.kernels)])
    return fig, axes


def _fill_histograms(
    sheet: Sheet, axes: np.ndarray, kw: Styles, ticks: tuple[Any, Any], borders: bool
) -> None:
    for column, kernel in enumerate(sheet.kernels):
        axes[0, column].set_title(_TITLES.get(str(kernel.name), str(kernel.name).upper()), **kw["subtitle"])
        for gate, name in enumerate(sheet.gates):
            _draw_histogram(axes[gate, column], kernel[..., gate, :].values, name, kw["plot"], kw)
        axes[len(sheet.gates) - 1, column].set_xlabel("Value", **kw["xlabel"])
    if len(axes) > len(sheet.gates) and sheet.bias is not None:
        _draw_histogram(axes[-1, 0], sheet.bias.values, _TITLES["bias"], kw["plot-bias"], kw)
    for ax in dict.fromkeys(axes.flat):
        _style_histogram(ax, ticks, borders)
    figure: Any = axes[0, 0].get_figure(root=True)
    width = figure.get_size_inches()[0]
    for ax in axes[: len(sheet.gates)].flat:
        _spread_ticks(ax, width / axes.shape[1])
    for ax in axes[:, 0]:
        ax.set_ylabel("Density" if kw["plot"].get("density") else "Count", **kw["ylabel"])


def _draw_histogram(ax: Axes, values: np.ndarray, name: str, style: Mapping[str, Any], kw: Styles) -> None:
    finite = values[np.isfinite(values)]
    if finite.size:
        ax.hist(finite, **style)
    if name:
        ax.annotate(literal(name), **{"xycoords": "axes fraction", **kw["annot"]})
    found = detect_nans(values)
    if found is not None:
        ax.annotate(found.replace(", ", "\n"), **{"xycoords": "axes fraction", **kw["annot-nan"]})


def _style_histogram(ax: Axes, ticks: tuple[Any, Any], borders: bool) -> None:
    ax.set_frame_on(borders)
    if not ticks[0]:
        ax.set_xticks([])
    if not ticks[1]:
        ax.set_yticks([])


def _spread_ticks(ax: Axes, width: float) -> None:
    """As many x ticks as have room for labels of several digits on so many inches."""
    # Not ticks that were taken away, or are on a logarithmic axis.
    if isinstance(ax.xaxis.get_major_locator(), MaxNLocator):
        ticks = int(np.clip(width / _TICK_ROOM, 1, 9))
        ax.xaxis.set_major_locator(MaxNLocator(nbins=ticks, steps=[1, 2, 5, 10]))


def _equate(grids: Sequence[np.ndarray], symmetric: bool) -> None:
    """Gives all axes the limits that hold them all; symmetric about x = 0 if asked for."""
    axes = [ax for grid in grids for ax in grid.flat]
    low, high = np.array([ax.get_xlim() for ax in axes]).T
    left, right = low.min(), high.max()
    if symmetric:
        right = max(-left, right)
        left = -right
    top = max(ax.get_ylim()[1] for ax in axes)
    for ax in axes:
        ax.set_xlim(left, right)
        ax.set_ylim(0, top)


def _fill_heatmaps(
    sheet: Sheet, axes: np.ndarray, kw: Styles, colors: Mapping[str, Any], separator: float, borders: bool
) -> list[AxesImage]:
    images = []
    for ax, kernel in zip(axes[0], sheet.kernels, strict=True):
        images.append(draw_heatmap(ax, kernel, kw["plot"], kw, colors, separator))
        ax.set_xlabel(gates_line(kernel), **kw["xlabel"])
        ax.set_ylabel(rows_line(kernel), **kw["ylabel"])
        ax.set_frame_on(borders)
    if len(axes) > 1 and sheet.bias is not None:
        bias = axes[1, 0]
        images.append(draw_heatmap(bias, sheet.bias, kw["plot-bias"], kw, colors, separator))
        bias.set_frame_on(borders)
        bias.set_xticks([])
        sides = sheet.bias.coords["side"].values if "side" in sheet.bias.coords else []
        bias.set_yticks(range(len(sides)), sides)
        bias.set_xlabel(_clipped_line(images[-1]), **kw["xlabel"])
    return images


def draw_heatmap(
    ax: Axes,
    block: xr.DataArray,
    style: Mapping[str, Any],
    kw: Styles,
    colors: Mapping[str, Any],
    separator: float,
) -> AxesImage:
    """Draws one weight, or what has its dims, as a heatmap: gates side by side, named below, set apart.

    Args:
        ax: where to.
        block: ``(..., gate, unit)``; its name is the title.
        style: options of `imshow`, over those of `colors`.
        kw: options by part of the figure; the title takes those of ``"subtitle"``.
        colors: ``cmap`` and ``vmin``, ``vmax`` or ``norm``.
        separator: width of the lines between gates, 0 for none.

    Returns:
        The image; NaN and Inf are masked in it, and counted in the title.
    """
    shown = np.ma.masked_invalid(matrix(block))
    image = ax.imshow(shown, **{"aspect": "auto", "interpolation": "nearest", **colors, **style})
    gates, units = block.sizes["gate"], block.sizes["unit"]
    if separator:
        for gate in range(1, gates):
            ax.axvline(gate * units - 0.5, linewidth=separator, color=line_color(shown, **colors))
    if gates > 1:
        names = [literal(name).upper() for name in block.coords["gate"].values]
        ax.set_xticks(np.arange(gates) * units + (units - 1) / 2, names, weight="bold")
        ax.tick_params(axis="x", length=0)
    else:
        ax.xaxis.set_major_locator(whole_locator())
    ax.yaxis.set_major_locator(whole_locator())
    mark_bad_cells(image)
    role = str(block.name)
    ax.set_title("\n".join([_TITLES.get(role, role.upper()), *_nonfinite_by_gate(block)]), **kw["subtitle"])
    return image


def _finite(image: AxesImage) -> np.ndarray:
    drawn: Any = image.get_array()
    return np.ma.compressed(drawn)


def _beyond(image: AxesImage) -> tuple[bool, bool]:
    """Whether an image has values below its first colour, and above its last one."""
    (low, high), values = image.get_clim(), _finite(image)
    return bool((values < low).any()), bool((values > high).any())


def _extend(images: Sequence[AxesImage]) -> str:
    """Which ends of a colour bar are pointed, in matplotlib's words."""
    below, above = np.any([_beyond(image) for image in images], axis=0)
    return {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[int(below), int(above)]


def _clipped_line(image: AxesImage) -> str:
    """The range of an image that its colours do not show; empty if they do."""
    if not any(_beyond(image)):
        return ""
    (low, high), values = image.get_clim(), _finite(image)
    drawn = f"from {values.min():.3g} to {values.max():.3g}"
    return f"clipped: values reach {drawn}, colours from {low:.3g} to {high:.3g}"


def gates_line(block: xr.DataArray) -> str:
    """What lies along the columns of a heatmap: ``Gates of 16 units``, or of one gate ``16 units``."""
    units = f"{block.sizes['unit']} unit{'s' * (block.sizes['unit'] > 1)}"
    return f"Gates of {units}" if block.sizes["gate"] > 1 else units


def rows_line(block: xr.DataArray) -> str:
    """What lies along the rows of a heatmap; empty if it has one row."""
    dims = [str(dim) for dim in block.dims[:-2]]
    return ", ".join(_ROWS.get(dim, dim) for dim in dims)


def _nonfinite_by_gate(block: xr.DataArray) -> Iterator[str]:
    """One line with the counts of every gate that has any, or of the block if it has one gate."""
    notes = [
        (str(gate.values).upper(), nonfinite_note(block.sel(gate=gate).values))
        for gate in block.coords["gate"]
    ]
    told = [f"{gate}: {note}" if len(notes) > 1 else note for gate, note in notes if note]
    if told:
        yield literal("; ".join(told))
