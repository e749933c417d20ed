"""The pictures of a report, with words for those who do not see them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from see_rnn_like.history import History, TensorInfo
from see_rnn_like.labels import TensorKey
from see_rnn_like.plots.curves import fit_height
from see_rnn_like.plots.history import plot_histograms, plot_norms, plot_update_ratio
from see_rnn_like.plots.steps import bad_text
from see_rnn_like.plots.timeline import plot_events, plot_loss
from see_rnn_like.report.svg import drawing_style, to_svg

#: Inches: about the width of a phone's screen, so that there the letters have their true size.
WIDTH = 4.6
_MOST_SPOKEN = 12


@dataclass(frozen=True)
class Picture:
    """An inline SVG and its caption."""

    svg: Markup
    caption: str


def loss_picture(run: History) -> Picture:
    """The loss over training; the run must have one."""
    with drawing_style("loss"):
        fig = _figure(2.9)
        _, ax = plot_loss(run, ax=fig.add_subplot())
        return Picture(to_svg(fig, f"Loss over training. {_spoken_lines(ax)}."), "")


def events_picture(run: History) -> Picture:
    """When and where the events happened; the run must have some."""
    with drawing_style("events"):
        fig = _figure(3)
        _, ax = plot_events(run, ax=fig.add_subplot())
        fig.set_figheight(1.0 + 0.24 * len(ax.get_yticks()))
        return Picture(to_svg(fig, "Time line of the events listed on this page."), "")


def norms_picture(run: History, keys: Sequence[TensorKey], per_gate: bool) -> Picture:
    """L2 norms of some tensors, panels below each other."""
    with drawing_style("norms " + " ".join(map(str, keys))):
        fig = _figure(3)
        _, axes = plot_norms(run, keys, per_gate=per_gate, columns=1, fig=fig)
        fit_height(fig, 1.45)
        return Picture(to_svg(fig, _spoken_curves("L2 norm over training", axes)), "")


def ratio_picture(run: History, keys: Sequence[TensorKey]) -> Picture:
    """Update ratios of some weights, panels below each other."""
    with drawing_style("ratio " + " ".join(map(str, keys))):
        fig = _figure(3)
        _, axes = plot_update_ratio(run, keys, columns=1, fig=fig)
        fit_height(fig, 1.45)
        return Picture(to_svg(fig, _spoken_curves("Size of an update relative to the weights", axes)), "")


def histogram_picture(run: History, info: TensorInfo) -> Picture:
    """The distribution of one tensor over training, a panel per gate below each other."""
    with drawing_style(f"histogram {info.key}"):
        fig = _figure(0.95 + 1.05 * max(len(info.gates), 1))
        plot_histograms(run, info.key, fig=fig)
        caption = "; ".join(f"{name}: {value}" for name, value in info.attrs.items())
        return Picture(to_svg(fig, _spoken_distribution(info.key, run.stats(info.key))), caption)


def _figure(height: float) -> Figure:
    return Figure(figsize=(WIDTH, height), layout="constrained")


def _spoken_curves(what: str, axes: np.ndarray) -> str:
    parts = [f"{ax.get_title(loc='left')}: {_spoken_lines(ax)}" for ax in axes]
    return f"{what}. {'. '.join(parts)}."


def _spoken_lines(ax: Axes) -> str:
    # What is placed by the edge of the axes, not by the data, is a mark or a guide.
    lines = [line for line in ax.lines if line.get_transform() == ax.transData]
    spoken = [f"{line.get_label()} {_ends(line.get_ydata())}" for line in lines[:_MOST_SPOKEN]]
    return ", ".join(spoken) + (f" and {len(lines) - _MOST_SPOKEN} more" if len(lines) > _MOST_SPOKEN else "")


def _ends(values: object) -> str:
    numbers = np.asarray(values, "float64")
    finite = numbers[np.isfinite(numbers)]
    return f"from {finite[0]:.3g} to {finite[-1]:.3g}" if finite.size else "nothing finite"


def _spoken_distribution(key: TensorKey, table: xr.Dataset) -> str:
    gates = (
        [(f"{g}: ", table.sel(gate=g)) for g in table["gate"].values]
        if "gate" in table.dims
        else [("", table)]
    )
    parts = [f"Distribution of {key} at {table.sizes['step']} steps; at the last one"]
    for name, part in gates:
        last = part.isel(step=-1)
        note = bad_text(part["step"].values, part["nan"], part["inf"])
        parts.append(
            f"{name}{float(last['min']):.3g} to {float(last['max']):.3g}, "
            f"{float(last['zeros']):.0%} exact zeros" + (f", {note}" if note else "")
        )
    return "; ".join(parts) + "."
