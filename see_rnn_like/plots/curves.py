"""Small multiples of curves over training steps: a panel per kind of tensor, a line per layer and gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, Locator, LogLocator, MaxNLocator, NullLocator

from see_rnn_like.plots.steps import BAD, literal, mark_bad_steps, power_text, scale_steps

#: Okabe and Ito's colours that stand out from white and from black, then two of Tol's "muted" ones:
#: told apart with any colour vision.
HUES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#882255", "#999933")
DASHES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 4)))

#: With up to this many recorded steps every one gets a dot.
_DOTTED = 40
_LONGEST_NAME = 38


@dataclass(frozen=True)
class Curve:
    """One line.

    Attributes:
        layer: who it belongs to: the layer, with its direction if it has one.
        gate: gate, or None.
        steps: recorded steps ``(step,)``.
        values: what is drawn ``(step,)``; a step of `bad` and a 0, which has no place on a logarithmic
            axis, leave a gap and get a mark on the edge.
        bad: number of NaN and Inf in the tensor ``(step,)``.
    """

    layer: str
    gate: str | None
    steps: np.ndarray
    values: np.ndarray
    bad: np.ndarray

    @property
    def name(self) -> str:
        """Layer and gate, as in a legend."""
        return self.layer if self.gate is None else f"{self.layer} · {self.gate}"


Style = tuple[str, Any]


def curve_styles(curves: Sequence[Curve], layers: Sequence[str]) -> dict[tuple[str, str | None], Style]:
    """Colour and dashes per ``(layer, gate)``.

    Up to eight lines, some of them gates, have a colour each. Otherwise a colour means a layer, the same
    one in every figure of a run, and dashes mean a gate; more than eight layers are coloured along viridis
    in their order, so that a trend with depth shows.

    Args:
        curves: what is to be drawn.
        layers: every layer of the run, in execution order.
    """
    names = sorted(dict.fromkeys((c.layer, c.gate) for c in curves), key=lambda name: layers.index(name[0]))
    gates = list(dict.fromkeys(gate for _, gate in names if gate is not None))
    if gates and len(names) <= len(HUES):
        return {name: (hue, "-") for name, hue in zip(names, HUES, strict=False)}
    hues = dict(zip(layers, _hues(len(layers)), strict=True))
    dashes = dict(zip(gates, cycle(DASHES), strict=False))
    return {(layer, gate): (hues[layer], dashes[gate] if gate else "-") for layer, gate in names}


def draw_panels(
    panels: Mapping[tuple[str, str], Sequence[Curve]],
    layers: Sequence[str],
    ylabel: str,
    columns: int,
    fig: Figure | SubFigure,
    guide: float | None = None,
) -> np.ndarray:
    """Draws one panel of curves per entry, rows of them per kind, and one legend below all.

    Args:
        panels: ``(kind, title)`` → curves; a new kind starts a new row.
        layers: every layer of the run, in execution order.
        ylabel: what the curves show, with its unit.
        columns: panels per row at most.
        fig: where to.
        guide: a value to draw a horizontal line at.

    Returns:
        The axes ``(panel,)``, in the order of `panels`.
    """
    cells = _grid([kind for kind, _ in panels], columns)
    grid = fig.add_gridspec(1 + max(row for row, _ in cells), 1 + max(column for _, column in cells))
    everything = [curve for curves in panels.values() for curve in curves]
    styles = curve_styles(everything, layers)
    steps = sorted({int(step) for curve in everything for step in curve.steps})
    axes = []
    for (row, column), ((_, title), curves) in zip(cells, panels.items(), strict=True):
        ax = fig.add_subplot(grid[row, column])
        _prepare(ax, steps, title)
        if guide is not None:
            ax.axhline(guide, color="#888888", linewidth=1, zorder=1)
        for curve in curves:
            colour, dashes = styles[curve.layer, curve.gate]
            draw_line(ax, curve, colour, dashes)
            mark_zeros(ax, curve, colour)
        scale_sizes(ax)
        mark_bad_steps(ax, sorted({int(s) for curve in curves for s in curve.steps[curve.bad > 0]}))
        if column == 0:
            ax.set_ylabel(ylabel)
        if (row + 1, column) in cells:
            ax.tick_params(labelbottom=False)
        else:
            ax.set_xlabel("step")
        axes.append(ax)
    fig.align_ylabels(axes)
    _legend(fig, everything, styles)
    return np.array(axes, dtype=object)


def draw_line(ax: Axes, curve: Curve, colour: str, dashes: Any = "-") -> Line2D:
    """Draws the line of a curve, with a gap at NaN and Inf and dots where a line alone would not be seen."""
    shown = np.where(curve.bad > 0, np.nan, curve.values)
    (line,) = ax.plot(curve.steps, shown, color=colour, linewidth=1.4, label=literal(curve.name))
    drawn = np.isfinite(shown) & ((shown > 0) | (ax.get_yscale() == "linear"))
    dots = _alone(drawn) if len(drawn) > _DOTTED else drawn
    line.set_linestyle(dashes)
    if dots.any():
        line.set(marker="o", markersize=2.5, markevery=np.flatnonzero(dots).tolist())
    return line


def mark_zeros(ax: Axes, curve: Curve, colour: str) -> None:
    """Sets a hollow mark on the bottom edge of the axes at every step at which the curve is exactly 0."""
    where = curve.steps[(curve.values == 0) & (curve.bad == 0)]
    if where.size:
        edge = ax.get_xaxis_transform()
        ax.plot(where, np.zeros(where.size), transform=edge, color=colour, label="exactly 0", **_ZERO_MARK)


def scale_sizes(ax: Axes) -> None:
    """Sets limits and ticks of a logarithmic y axis by what is drawn on it.

    The axis spans at least a factor of two, so that the rounding noise of a constant does not fill it.
    """
    drawn = np.concatenate([np.asarray(line.get_ydata(), "float64") for line in ax.lines])
    drawn = drawn[np.isfinite(drawn) & (drawn > 0)]
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(power_text))
    if not drawn.size:
        # Nothing to scale by: the marks on the edges say all there is.
        ax.yaxis.set_major_locator(NullLocator())
        return
    low, high = np.log10(drawn.min()), np.log10(drawn.max())
    pad = max(0.06 * (high - low), (np.log10(2) - (high - low)) / 2)
    ax.set_ylim(10 ** (low - pad), 10 ** (high + pad))
    ax.yaxis.set_major_locator(size_locator(high - low))


def size_locator(decades: float) -> Locator:
    """Ticks of a logarithmic axis of sizes that spans so many decades: powers of ten, else 1, 2 and 5."""
    if decades >= 2:
        return LogLocator(numticks=5)
    if decades >= 0.7:
        return LogLocator(subs=(1.0, 2.0, 5.0), numticks=9)
    return MaxNLocator(nbins=4, steps=[1, 2, 5, 10])


def fit_height(fig: Figure, panel: float = 1.6) -> None:
    """Sets the height of a figure of `draw_panels`: `panel` inches per row, and room for the legend."""
    rows = 1 + max(cell.rowspan.start for ax in fig.axes if (cell := ax.get_subplotspec()))
    fig.set_figheight(0.6 + rows * panel + 0.2 * legend_lines(fig))


def legend_lines(fig: Figure) -> int:
    """Lines of text in the legend that `draw_panels` set below the panels."""
    names = [text.get_text() for legend in fig.legends for text in legend.get_texts()]
    return -(-len(names) // legend_columns(fig, names)) if names else 0


_ZERO_MARK: dict[str, Any] = {
    "linestyle": "none",
    "marker": "^",
    "markersize": 4,
    "markerfacecolor": "none",
    "clip_on": False,
}


def _prepare(ax: Axes, steps: Sequence[int], title: str) -> None:
    scale_steps(ax, steps)
    ax.set_yscale("log", nonpositive="mask")
    ax.set_autoscaley_on(False)  # see scale_sizes
    ax.grid(True, color="#888888", alpha=0.25, linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_title(literal(title), loc="left", fontsize="medium")


def _grid(kinds: Sequence[str], columns: int) -> list[tuple[int, int]]:
    cells: list[tuple[int, int]] = []
    for before, kind in zip([None, *kinds], kinds, strict=False):
        row, column = cells[-1] if cells else (-1, columns)
        new_row = kind != before or column + 1 >= columns
        cells.append((row + 1, 0) if new_row else (row, column + 1))
    return cells


def _hues(count: int) -> list[str]:
    return list(HUES[:count]) if count <= len(HUES) else ordered_hues(count)


def ordered_hues(count: int) -> list[str]:
    """Colours of lines whose order counts, from dark blue to green, all of them seen on white."""
    return [to_hex(colour) for colour in mpl.colormaps["viridis"](np.linspace(0.05, 0.78, count))]


def _alone(drawn: np.ndarray) -> np.ndarray:
    """Points without a neighbour: no line reaches them, only a dot shows them."""
    padded = np.concatenate([[False], drawn, [False]])
    return drawn & ~padded[:-2] & ~padded[2:]


def _legend(fig: Figure | SubFigure, curves: Sequence[Curve], styles: Mapping[Any, Style]) -> None:
    entries = _legend_entries(curves, styles)
    names = [name for name, _ in entries]
    legend = fig.legend(
        [handle for _, handle in entries],
        ["entry"] * len(entries),
        loc="outside lower center",
        ncols=legend_columns(fig, names),
        frameon=False,
        fontsize="small",
    )
    # Set afterwards, for matplotlib leaves out names that begin with an underscore.
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(literal(name))


def _legend_entries(curves: Sequence[Curve], styles: Mapping[Any, Style]) -> list[tuple[str, Line2D]]:
    hues = dict.fromkeys(hue for hue, _ in styles.values())
    if len(hues) == len(styles):  # a colour per line says all
        named = [
            (layer if gate is None else f"{layer} · {gate}", style) for (layer, gate), style in styles.items()
        ]
    else:
        named = list({layer: (hue, "-") for (layer, _), (hue, _) in styles.items()}.items())
        dashes = {gate: dash for (_, gate), (_, dash) in styles.items() if gate is not None}
        named += [(gate, ("#888888", dash)) for gate, dash in dashes.items()]
    entries = [(short_name(name), Line2D([], [], color=hue, linestyle=dash)) for name, (hue, dash) in named]
    if any((curve.bad > 0).any() for curve in curves):
        entries.append(("NaN or Inf", Line2D([], [], color=BAD, marker="v", linestyle="none")))
    if any(((curve.values == 0) & (curve.bad == 0)).any() for curve in curves):
        entries.append(("exactly 0", Line2D([], [], color="#888888", **_ZERO_MARK)))
    return entries


def legend_columns(fig: Figure | SubFigure, names: Sequence[str]) -> int:
    """Columns of a legend in small text that have room beside each other, by the longest name."""
    # A character of small text is about 0.075 inches wide, the line before it and the gap 0.55.
    width = fig.bbox.width / fig.figure.dpi if isinstance(fig, SubFigure) else fig.get_figwidth()
    longest = max((len(name) for name in names), default=1)
    return int(max(1, min(len(names), width // (0.075 * longest + 0.55))))


def short_name(name: str) -> str:
    """A name cut in the middle to fit a legend.

    Example:
        >>> short_name("encoder/block_1/very_long/bidirectional_lstm/forward")
        'encoder/block_1/ve…ional_lstm/forward'
    """
    if len(name) <= _LONGEST_NAME:
        return name
    half = (_LONGEST_NAME - 1) // 2
    return f"{name[:half]}…{name[-half:]}"
