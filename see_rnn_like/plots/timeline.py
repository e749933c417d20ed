"""Pictures of a run as a whole: its loss and its events on the line of training steps."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.legend import Legend

from see_rnn_like.errors import ArgumentError
from see_rnn_like.history import Event, History, require_history
from see_rnn_like.plots.curves import HUES, Curve, draw_line, short_name
from see_rnn_like.plots.steps import BAD, literal, mark_bad_steps, scale_steps

#: A loss that spans more than this factor is drawn on a logarithmic axis.
_LOG_SPAN = 30
#: More epochs than this are not told apart by lines.
_MOST_EPOCHS = 40
_MOST_ROWS = 40
#: Style of a line, see `matplotlib.lines.Line2D.set`.
Look = Mapping[str, Any]

_EVENT_MARKS = {"nan": "X", "inf": "P"}


def plot_loss(run: History, *, ax: Axes | None = None) -> tuple[Figure | SubFigure, Axes]:
    """Draws the loss over training.

    The loss of each recorded batch as a thin line, Keras's running mean over the epoch as a bold one, dots
    for the validation loss at the end of each epoch, thin vertical lines between epochs, a red mark on the
    top edge where a loss was NaN or Inf. Of several outputs the losses are drawn too. The axis is
    logarithmic if everything on it is positive and spans more than a factor of 30.

    Args:
        run: the recorded run.
        ax: axes to draw into; None for a new figure.

    Returns:
        The figure and the axes.

    Raises:
        ArgumentError: if no loss was recorded.
        ArgumentTypeError: if `run` is no run.

    Example:
        >>> fig, ax = plot_loss(run)  # doctest: +SKIP
    """
    require_history(run)
    lines = loss_lines(run)
    if not lines:
        raise ArgumentError("this run has no loss to draw: nothing was recorded yet, or no loss among it")
    ax = ax if ax is not None else _new_axes(3.0)
    scale_steps(ax, sorted({int(step) for curve, _ in lines for step in curve.steps}))
    for (curve, look), hue in zip(lines, cycle(HUES), strict=False):
        draw_line(ax, curve, hue).set(**look)
    mark_bad_steps(ax, sorted({int(step) for curve, _ in lines for step in curve.steps[curve.bad > 0]}))
    _mark_epochs(ax, run)
    _log_if_wide(ax, np.concatenate([curve.values[curve.bad == 0] for curve, _ in lines]))
    _label(ax, ylabel="loss")
    return ax.figure, ax


def plot_events(run: History, *, ax: Axes | None = None) -> tuple[Figure | SubFigure, Axes]:
    """Draws when and where something happened: steps to the right, a row per tensor and gate.

    The rows are in the order the events were seen, first on top, so that the tensor in which a NaN began
    is the first row and the way it spread can be read downwards. Red is NaN and Inf, grey the rest.

    Args:
        run: the recorded run.
        ax: axes to draw into; None for a new figure.

    Returns:
        The figure and the axes. Of more than 40 rows the first 40 are drawn, and the legend says so.

    Raises:
        ArgumentError: if the run has no events.
        ArgumentTypeError: if `run` is no run.

    Example:
        >>> fig, ax = plot_events(run)  # doctest: +SKIP
    """
    require_history(run)
    events = run.events
    if not events:
        raise ArgumentError("this run has no events to draw (no NaN, no Inf, nothing switched off)")
    rows = list(dict.fromkeys(_event_row(event) for event in events))
    drawn = rows[:_MOST_ROWS]
    ax = ax if ax is not None else _new_axes(0.8 + 0.22 * len(drawn))
    for kind in dict.fromkeys(event.kind for event in events):
        found = [(e.step, rows.index(_event_row(e))) for e in events if e.kind == kind]
        steps, heights = np.array(found).T
        (marks,) = ax.plot(steps, heights, label=literal(kind), linestyle="none")
        marks.set(marker=_EVENT_MARKS.get(kind, "s"), markersize=6)
        marks.set_color(BAD if kind in _EVENT_MARKS else "#888888")
    scale_steps(ax, sorted({*run.steps, *(event.step for event in events)}))
    ax.set_yticks(range(len(drawn)), [literal(short_name(row)) for row in drawn], fontsize="small")
    ax.set_ylim(len(drawn) - 0.4, -0.6)
    legend = _label(ax, columns=4)
    if len(rows) > len(drawn):
        # The heading of the legend, so that neither lies on the other.
        legend.set_title(f"the first {len(drawn)} of {len(rows)} rows")
        legend.set(alignment="left")
    return ax.figure, ax


def loss_lines(run: History) -> list[tuple[Curve, Look]]:
    """What `plot_loss` draws: curves and the style of their lines; empty if no loss was recorded."""
    return _batch_losses(run) + _mean_losses(run) + _validation_losses(run)


def _batch_losses(run: History) -> list[tuple[Curve, Look]]:
    keys = [key for key in run.infos() if not key.layer and key.role.partition("@")[0] == "loss"]
    tables = [(key.role, run.stats(key)) for key in keys]
    return [
        (_curve(f"{role} of the batch", table["step"], table["mean"]), {"linewidth": 0.9})
        for role, table in tables
        if table.sizes["step"]
    ]


def _mean_losses(run: History) -> list[tuple[Curve, Look]]:
    logs = run.logs()
    names = [str(name) for name in logs.data_vars if _is_loss(str(name)) and not str(name).startswith("val_")]
    return [
        (_curve(f"{name}, mean of the epoch so far", logs["step"], logs[name]), {"linewidth": 2.0})
        for name in names
    ]


def _validation_losses(run: History) -> list[tuple[Curve, Look]]:
    names = dict.fromkeys(n for epoch in run.epochs for n in epoch if n.startswith("val_") and _is_loss(n))
    found: list[tuple[Curve, Look]] = []
    for name in names:
        points = [(epoch["step"], epoch[name]) for epoch in run.epochs if name in epoch]
        steps, values = np.array(points).T
        found.append(
            (
                _curve(name, steps, values),
                {"linewidth": 1.2, "markersize": 5, "markevery": None, "clip_on": False},
            )
        )
    return found


def _is_loss(name: str) -> bool:
    return name == "loss" or name.endswith("_loss")


def _curve(name: str, steps: Any, values: Any) -> Curve:
    values = np.asarray(values, "float64")
    return Curve(name, None, np.asarray(steps), values, (~np.isfinite(values)).astype("int64"))


def _mark_epochs(ax: Axes, run: History) -> None:
    ends = [epoch["step"] for epoch in run.epochs]
    if 1 < len(ends) <= _MOST_EPOCHS:
        for end in ends[:-1]:
            ax.axvline(end + 0.5, color="#888888", linewidth=0.8, alpha=0.5, zorder=0)


def _log_if_wide(ax: Axes, values: np.ndarray) -> None:
    if values.size and values.min() > 0 and values.max() > _LOG_SPAN * values.min():
        ax.set_yscale("log")


def _event_row(event: Event) -> str:
    gate = f" · {event.gate}" if event.gate else ""
    return f"{event.key}{gate}" if event.key else "the run"


def _new_axes(height: float) -> Axes:
    return plt.figure(figsize=(7, height), layout="constrained").add_subplot()


def _label(ax: Axes, ylabel: str = "", columns: int = 2) -> Legend:
    ax.set(xlabel="step", ylabel=ylabel)
    ax.grid(True, color="#888888", alpha=0.25, linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)
    return ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, frameon=False, fontsize="small")
