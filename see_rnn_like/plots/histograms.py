"""Histograms: one per sample, several per cell of a table, or a single one with its highest bars clipped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from see_rnn_like.errors import ArgumentError
from see_rnn_like.plots.bars import (
    NOT_PLAIN_COUNTS,
    Bars,
    Label,
    bar_heights,
    bin_edges,
    clip_peaks,
    peak_note,
)
from see_rnn_like.plots.compose import Page, compose
from see_rnn_like.plots.figure import (
    LEGIBLE,
    Configs,
    Savepath,
    Styles,
    clipnums,
    drawn_whole,
    merge_styles,
    pair,
    save_figures,
    two_numbers,
)
from see_rnn_like.plots.grid import Grid, share_limits, share_words, widen
from see_rnn_like.plots.panels import Panels, PanelStyle, annotation_size, panel_texts
from see_rnn_like.plots.titles import title_hist, with_counts
from see_rnn_like.stats import detect_nans, number_arrays

Cells = Sequence[Sequence[np.ndarray]]

_INSIDE = {"xycoords": "axes fraction", **LEGIBLE}
_ANNOTATION = {"weight": "bold", "color": "g", "xy": (0.02, 0.7), "xycoords": "axes fraction"}
_PADS = {"min": {"xy": (0.03, 0.1), **_INSIDE}, "max": {"xy": (0.97, 0.1), "ha": "right", **_INSIDE}}
_SIDE = {"weight": "bold", "fontsize": 14, "xy": (1.02, 0.5), "va": "center", "xycoords": "axes fraction"}
_NOTE = {"weight": "bold", "color": "r", "xy": (0.98, 0.92), "ha": "right", "va": "top", **_INSIDE}

#: Gap between the panels of a table, as a share of a panel.
_TABLE_GAP = 0.05


def features_hist(
    data: Any,
    n_rows: int | str | None = "vertical",
    bins: Any = 100,
    xlims: tuple[float, float] | None = None,
    tight: bool = True,
    center_zero: bool = False,
    share_xy: Any = ("col", 1),
    pad_xticks: bool | None = None,
    annotations: str | Sequence[str] | None = "auto",
    configs: Configs | None = None,
    *,
    w: float = 1,
    h: float = 1,
    show_borders: bool = True,
    show_xy_ticks: Any = (1, 1),
    title: bool | str | None = None,
    borderwidth: float | None = None,
    savepath: Savepath | None = None,
) -> tuple[Figure, np.ndarray]:
    """Draws one histogram per sample (per entry of the first dimension).

    NaN and Inf are left out, written in red on the panel and counted in the title. Large grids are drawn
    on one axes; every panel handed out becomes a real one when it is used, see
    `see_rnn_like.plots.canvas`.

    Args:
        data: ``(samples, ...)``, or a list of arrays of any shapes; ``(values,)`` for one panel.
        n_rows: rows of the grid; ``"vertical"`` for one column, None for a nearly square grid.
        bins: number of bins of each panel, their edges, or a rule of `numpy.histogram_bin_edges`.
        xlims: limits of all x axes; None for the range of the data.
        tight: leave no room between the panels.
        center_zero: x limits symmetric about 0, in place of `xlims`.
        share_xy: which panels have common x and y limits, as in `features_1D`.
        pad_xticks: write the x limits into the panels in place of ticks; None: if `tight` and the panels
            do not share them.
        annotations: texts of the panels, as in `features_1D`.
        configs: keyword arguments per drawing element: ``plot`` (`Axes.hist`, and ``peaks_to_clip``, see
            `hist_clipped`), ``subplot`` (`pyplot.subplots`), ``title``, ``tight``
            (`Figure.subplots_adjust`), ``annot`` (`Axes.annotate`), ``pad_xticks`` (``{"min": ...,
            "max": ...}``, each for `Axes.annotate`), ``save`` (`Figure.savefig`).
        w: factor of the figure's width, 10 inches.
        h: factor of the figure's height, 10 inches.
        show_borders: draw frames around the panels.
        show_xy_ticks: show x and y ticks.
        title: ``"outputs"``, ``"grads"``, ``"generic"`` or True for a title that names the axes; another
            text for itself; None or False for none.
        borderwidth: width of the frames in points.
        savepath: file to write the figure to.

    Returns:
        The figure and the axes ``(row, col)``.

    Raises:
        ArgumentError: for data without values, and other arguments out of range.
        ArgumentTypeError: for data that is not numbers.

    Example:
        >>> import numpy as np
        >>> fig, axes = features_hist(np.random.default_rng(0).normal(size=(4, 100, 6)), bins=50)
        >>> axes.shape
        (4, 1)
    """
    with drawn_whole(configs, savepath):
        share, ticks = share_words(share_xy), pair("show_xy_ticks", show_xy_ticks)
        kw = _styles(configs, annot=_ANNOTATION, pad_xticks=_PADS)
        cells = [[values] for values in _samples(data)]
        grid = Grid.of(len(cells), _row_count(n_rows, len(cells)))
        table = _measured(cells, grid, bins, kw["plot"], share)
        xlim, ylim = _limits(table, xlims, None, center_zero)
        padded = (tight and share[0] == "none") if pad_xticks is None else bool(pad_xticks)
        size = annotation_size(_panel_height(kw, h, grid))
        labels = _labels(table, xlim, kw["pad_xticks"] if padded else {}, size)
        bars = Bars(table.values, table.edges, table.style, labels, (), {})
        texts = panel_texts(annotations, grid.count)
        ticks = (ticks[0] and not padded, ticks[1])
        style = PanelStyle(ticks, show_borders, borderwidth, None, texts, kw["annot"])
        words = "" if title is False else with_counts(title_hist(title), *_flat(cells))
        page = Page(words, kw, w, h, 0.0 if tight else None)
        fig, axes = compose(Panels(grid, bars, style, xlim, ylim, share), page, bars.fits_canvas())
        save_figures([fig], savepath, kw["save"])
        return fig, axes


def features_hist_v2(
    data: Any,
    colnames: Sequence[str] | None = None,
    bins: Any = 100,
    xlims: tuple[float, float] | None = None,
    ylim: float | None = None,
    center_zero: bool = False,
    tight: bool = True,
    share_xy: Any = ("col", 1),
    pad_xticks: bool | None = None,
    side_annot: str | None = None,
    configs: Configs | None = None,
    *,
    w: float = 1,
    h: float = 1,
    show_borders: bool = True,
    show_xy_ticks: Any = (1, 1),
    title: bool | str | None = None,
    borderwidth: float | None = None,
    savepath: Savepath | None = None,
) -> tuple[Figure, np.ndarray]:
    """Draws a table of panels with one or more histograms each.

    NaN and Inf are left out, written in red on the panel and counted in the title. Large tables are drawn
    on one axes, as those of `features_hist`.

    Args:
        data: rows of columns of histograms: an array ``(row, col, histogram, ...)`` or nested lists; every
            row has as many columns, a panel as many histograms as there are; what is below is flattened.
            A 1D array of numbers in place of a panel's histograms is one histogram.
        colnames: titles of the columns.
        bins: number of bins of each histogram, their edges, or a rule of `numpy.histogram_bin_edges`.
        xlims: limits of all x axes; None for the range of the data.
        ylim: upper limit of all y axes; None for a little more than the highest bar.
        center_zero: x limits symmetric about 0, in place of `xlims`.
        tight: leave no room to speak of between the panels.
        share_xy: which panels have common x and y limits, as in `features_1D`.
        pad_xticks: as in `features_hist`.
        side_annot: text written to the right of every row, followed by the row's number.
        configs: keyword arguments per drawing element: ``plot`` (`Axes.hist`, and ``peaks_to_clip``, see
            `hist_clipped`), ``subplot`` (`pyplot.subplots`), ``title``, ``tight``
            (`Figure.subplots_adjust`), ``colnames`` (`Axes.set_title`), ``side_annot`` (`Axes.annotate`),
            ``pad_xticks`` (``{"min": ..., "max": ...}``, each for `Axes.annotate`), ``save``
            (`Figure.savefig`).
        w: factor of the figure's width, 10 inches.
        h: factor of the figure's height, 10 inches.
        show_borders: draw frames around the panels.
        show_xy_ticks: show x and y ticks.
        title: as in `features_hist`.
        borderwidth: width of the frames in points.
        savepath: file to write the figure to.

    Returns:
        The figure and the axes ``(row, col)``.

    Raises:
        ArgumentError: for rows of different lengths, data without values, and other arguments out of range.
        ArgumentTypeError: for data that is not numbers.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> data = rng.normal(size=(3, 2, 2, 500))
        >>> fig, axes = features_hist_v2(data, colnames=["kernel", "recurrent"], side_annot="layer ")
        >>> axes[0, 1].get_title()
        'recurrent'
    """
    with drawn_whole(configs, savepath):
        share, ticks = share_words(share_xy), pair("show_xy_ticks", show_xy_ticks)
        kw = _styles(configs, colnames={"weight": "bold", "fontsize": 14}, side_annot=_SIDE, pad_xticks=_PADS)
        rows = _rows(data)
        cells = [cell for row in rows for cell in row]
        grid = Grid(len(rows), len(rows[0]), len(cells))
        table = _measured(cells, grid, bins, kw["plot"], share)
        xlim, ylims = _limits(table, xlims, ylim, center_zero)
        padded = (tight and share[0] == "none") if pad_xticks is None else bool(pad_xticks)
        size = annotation_size(_panel_height(kw, h, grid))
        labels = _labels(table, xlim, kw["pad_xticks"] if padded else {}, size)
        for row in range(grid.rows if side_annot is not None else 0):
            labels[(row + 1) * grid.cols - 1].append(Label(f"{side_annot}{row}", kw["side_annot"]))
        bars = Bars(table.values, table.edges, table.style, labels, _headings(colnames, grid), kw["colnames"])
        style = PanelStyle((ticks[0] and not padded, ticks[1]), show_borders, borderwidth)
        words = "" if title is False else with_counts(title_hist(title), *_flat(cells))
        above, beside = (
            0.35 * bool(bars.headings),
            0.0 if side_annot is None else 0.3 + 0.13 * len(side_annot),
        )
        page = Page(words, kw, w, h, _TABLE_GAP if tight else None, above=above, beside=beside)
        fig, axes = compose(Panels(grid, bars, style, xlim, ylims, share), page, bars.fits_canvas())
        save_figures([fig], savepath, kw["save"])
        return fig, axes


def hist_clipped(
    data: Any,
    peaks_to_clip: int = 1,
    ax: Axes | None = None,
    annot_kw: Mapping[str, Any] | Literal[False] | None = None,
    **hist_kw: Any,
) -> Any:
    """Draws a histogram whose highest bars are cut off, so that they do not flatten the others.

    The y axis ends at 1.05 × the highest bar left; the bars cut off are noted in red as ``(x, count)``, x
    being their left edge. NaN and Inf are left out. If no other bar had a height, nothing is cut off.

    Args:
        data: numbers of any shape, or a list of arrays; flattened.
        peaks_to_clip: how many bars to cut off.
        ax: axes to draw into; None for pyplot's current ones, as `pyplot.hist` does.
        annot_kw: keyword arguments of `Axes.annotate` for the note, laid over its own; False for no note.
        **hist_kw: keyword arguments of `Axes.hist`.

    Returns:
        What `Axes.hist` returns: heights, edges and patches.

    Raises:
        ArgumentError: if there is no finite value, or `peaks_to_clip` is not a whole number ≥ 0.

    Example:
        >>> import numpy as np
        >>> fig, ax = plt.subplots()
        >>> _ = hist_clipped(np.repeat([0.0, 1.0, 2.0], [900, 20, 10]), ax=ax, bins=3)
        >>> ax.get_ylim()[1].round(6).item(), ax.texts[0].get_text()
        (21.0, '(0, 900)')
    """
    values = np.concatenate([array.ravel() for array in number_arrays(data)])
    values = values[np.isfinite(values)]
    if not values.size:
        raise ArgumentError("there is no finite value to draw a histogram of")
    ax = plt.gca() if ax is None else ax
    heights, edges, patches = ax.hist(values, **hist_kw)
    left, peaks = clip_peaks(np.asarray(heights), edges, peaks_to_clip)
    if peaks:
        ax.set_ylim(top=1.05 * left)
        if annot_kw is not False:
            ax.annotate(peak_note(peaks), **{**_NOTE, "fontsize": 13, **(annot_kw or {})})
    return heights, edges, patches


@dataclass(frozen=True)
class _Table:
    """What is drawn, measured.

    Attributes:
        grid: the places of the panels.
        share: which panels share axes.
        values: finite values by panel and histogram.
        edges: edges of their bins.
        style: keyword arguments of `Axes.hist`.
        tops: upper limit of y ``(panel,)``; NaN if matplotlib is to find it.
        notes: what is noted on the panels.
    """

    grid: Grid
    share: tuple[str, str]
    values: Cells
    edges: Cells
    style: Mapping[str, Any]
    tops: np.ndarray
    notes: Sequence[str]


def _measured(cells: Cells, grid: Grid, bins: Any, plot: Mapping[str, Any], share: tuple[str, str]) -> _Table:
    style = dict(plot)
    if max(len(cell) for cell in cells) > 1:
        style = {"alpha": 0.6, **style}
    peaks, limits = style.pop("peaks_to_clip"), style.pop("range", None)
    if peaks and NOT_PLAIN_COUNTS & set(style):
        others = ", ".join(sorted(NOT_PLAIN_COUNTS & set(style)))
        raise ArgumentError(f"peaks_to_clip is for plain counts; configs['plot'] also has {others}")
    values = [[array[np.isfinite(array)] for array in cell] for cell in cells]
    edges = [[bin_edges(array, bins, limits) for array in cell] for cell in values]
    clipped = [
        [clip_peaks(bar_heights(array, edge, style), edge, peaks) for array, edge in zip(*pairs, strict=True)]
        for pairs in zip(values, edges, strict=True)
    ]
    tops = np.array([max((top for top, _ in cell), default=0.0) for cell in clipped])
    notes = [
        "\n".join(
            [
                *(peak_note(cut) for _, cut in found if cut),
                *(filter(None, [detect_nans(cell)]) if cell else []),
            ]
        )
        for found, cell in zip(clipped, cells, strict=True)
    ]
    return _Table(grid, share, values, edges, style, tops, notes)


def _limits(
    table: _Table, xlims: Any, ylim: float | None, center_zero: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Limits of the x and y axes ``(panel, 2)``; NaN where they are left to matplotlib."""
    found = [
        (min(e[0] for e in edges), max(e[-1] for e in edges))
        if (edges := _drawn(*cell))
        else (np.nan, np.nan)
        for cell in zip(table.values, table.edges, strict=True)
    ]
    x = widen(share_limits(np.array(found), table.grid.groups(table.share[0])))
    heights = np.stack([np.zeros_like(table.tops), 1.05 * table.tops], axis=1)
    y = share_limits(heights, table.grid.groups(table.share[1]))
    y[y[:, 1] == 0, 1] = 1.0
    if NOT_PLAIN_COUNTS & set(table.style):
        x, y = np.full_like(x, np.nan), np.full_like(y, np.nan)
    if center_zero:
        x = np.abs(x).max(axis=1, keepdims=True) * np.array([-1.0, 1.0])
    elif xlims is not None:
        x = np.tile(two_numbers("xlims", xlims), (len(x), 1))
    if ylim is not None:
        y = np.tile(two_numbers("ylim", (0, ylim)), (len(y), 1))
    return x, y


def _drawn(values: Sequence[np.ndarray], edges: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [edge for array, edge in zip(values, edges, strict=True) if array.size]


def _labels(table: _Table, xlim: np.ndarray, pads: Mapping[str, Any], size: float) -> list[list[Label]]:
    """Notes, and the x limits if they are written into the panels."""
    labels = []
    for note, limits in zip(table.notes, xlim, strict=True):
        found = [Label(note, {**_NOTE, "fontsize": min(size, 13)})] if note else []
        for (_, style), limit in zip(pads.items(), limits, strict=False):
            found.append(Label(str(clipnums(float(limit))), {"fontsize": min(size, 12), **style}))
        labels.append(found)
    return labels


def _panel_height(kw: Styles, h: float, grid: Grid) -> float:
    """About how many points high a panel will be."""
    return float(kw["subplot"]["figsize"][1]) * h * 72 / grid.rows


def _styles(configs: Configs | None, **elements: dict[str, Any]) -> Styles:
    common: Styles = {
        "plot": {"peaks_to_clip": 0},
        "subplot": {"dpi": 76, "figsize": (10, 10)},
        "title": {"weight": "bold"},
        "tight": {},
        "save": {},
    }
    return merge_styles(configs, common | elements)


def _samples(data: Any) -> list[np.ndarray]:
    """Values by panel, 1D each."""
    arrays = number_arrays(data)
    whole = arrays[0] if len(arrays) == 1 and not isinstance(data, (list, tuple)) else None
    panels = [whole] if whole is not None and whole.ndim == 1 else data
    samples = [_values(panel) for panel in panels]
    if not samples:
        raise ArgumentError("data is empty")
    return samples


def _row_count(n_rows: int | str | None, panels: int) -> int | None:
    if not isinstance(n_rows, str):
        return n_rows
    if n_rows != "vertical":
        raise ArgumentError(f"n_rows is a whole number ≥ 1, None or 'vertical'; got {n_rows!r}")
    return panels


def _rows(data: Any) -> list[list[list[np.ndarray]]]:
    """Values by row, column and histogram, 1D each."""
    rows = [[_histograms(cell) for cell in row] for row in data]
    lengths = [len(row) for row in rows]
    if not rows or not lengths[0]:
        raise ArgumentError("data must have at least one row and one column")
    if len(set(lengths)) > 1:
        raise ArgumentError(f"every row of data must have as many columns; got {lengths}")
    return rows


def _histograms(cell: Any) -> list[np.ndarray]:
    if not isinstance(cell, (list, tuple)) and np.ndim(cell) == 0:
        raise ArgumentError(
            f"data is (row, col, histogram, ...), at least 3D; got {cell!r} in place of a panel"
        )
    if len(cell) and np.ndim(cell[0]) == 0:
        return [_values(cell)]
    return [_values(histogram) for histogram in cell]


def _values(data: Any) -> np.ndarray:
    values = np.concatenate([array.ravel() for array in number_arrays(data)])
    if not values.size:
        raise ArgumentError("data is empty: there is nothing to draw a histogram of")
    return values.astype("float64")


def _headings(colnames: Sequence[str] | None, grid: Grid) -> list[str]:
    names = [] if colnames is None else [str(name) for name in colnames]
    if isinstance(colnames, str) or len(names) not in (0, grid.cols):
        raise ArgumentError(f"colnames must be {grid.cols} texts, one per column; got {colnames!r}")
    return names


def _flat(cells: Cells) -> list[np.ndarray]:
    return [array for cell in cells for array in cell]
