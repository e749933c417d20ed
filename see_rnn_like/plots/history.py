"""Pictures of a whole run: norms, update ratios and distributions; loss and events from `timeline`.

Every function takes a `History` (a live run or one read from a file) and returns ``(figure, axes)``.
None of them shows or saves anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from see_rnn_like.errors import ArgumentError, one_of
from see_rnn_like.history import History, require_history
from see_rnn_like.labels import TensorKey
from see_rnn_like.plots.curves import Curve
from see_rnn_like.plots.distribution import count_norm, draw_distribution, value_axis
from see_rnn_like.plots.recorded import draw_curves, owners_of, selected_keys, with_histogram
from see_rnn_like.plots.steps import BAD, bad_text, literal
from see_rnn_like.plots.timeline import plot_events, plot_loss

__all__ = ["plot_events", "plot_histograms", "plot_loss", "plot_norms", "plot_update_ratio"]

#: A healthy size of one update relative to the weights, "somewhere around 1e-3":
#: CS231n, "Neural Networks Part 3", section "Ratio of weights:updates".
HEALTHY_UPDATE_RATIO = 1e-3


def plot_norms(
    run: History,
    keys: str | TensorKey | Iterable[str | TensorKey] | None = None,
    *,
    kinds: str | Sequence[str] | None = None,
    per_gate: bool = True,
    rms: bool = False,
    columns: int = 4,
    fig: Figure | SubFigure | None = None,
) -> tuple[Figure | SubFigure, np.ndarray]:
    """Draws the size of tensors over training.

    One panel per role and kind (``kernel · gradient``), one line per layer and gate, logarithmic.
    A step with NaN or Inf is a gap in the line and a red mark on the panel's top edge; a norm of exactly
    zero (a layer that is frozen or cut off) is a hollow mark on the bottom edge.

    Args:
        run: the recorded run.
        keys: tensors to draw, as keys or in printed form (``"lstm/forward/kernel:gradient"``); None for
            all tensors of all layers, but for those that sum up others (``saturation_left``, ``h_norm``,
            ``horizon_h``, …), which have pictures of their own.
        kinds: only these of ``weight``, ``update``, ``gradient``, ``value``; None for all.
        per_gate: one line per gate; False for one per tensor.
        rms: root mean square √(Σx²/n) in place of the L2 norm √(Σx²): does not grow with the size of
            the tensor, so tensors of different sizes compare.
        columns: panels per row at most.
        fig: figure to draw into, best one with ``layout="constrained"``; None for a new one.

    Returns:
        The figure and its axes ``(panel,)``, in the order weights, updates, gradients, values.

    Raises:
        ArgumentError: for an unknown kind, `columns` < 1, or if nothing recorded is left to draw.
        ArgumentTypeError: if `run` is no run, or `columns` no whole number.
        UnknownTensorError: if nothing was recorded under one of `keys`.

    Example:
        >>> fig, axes = plot_norms(run, kinds=["gradient"])  # doctest: +SKIP
    """
    require_history(run)
    panels: dict[tuple[str, str], list[Curve]] = {}
    owners = owners_of(run)
    for key in selected_keys(run, keys, kinds):
        table = run.stats(key) if per_gate else _without_gates(run.stats(key))
        size = table["norm"]
        if rms:
            size = size / np.sqrt(table["count"] - table["nan"] - table["inf"])
        panels.setdefault((key.kind, f"{key.role} · {key.kind}"), []).extend(
            _curves(owners[key], size, table)
        )
    return draw_curves(run, panels, "root mean square" if rms else "L2 norm", columns, fig)


def plot_update_ratio(
    run: History,
    keys: str | TensorKey | Iterable[str | TensorKey] | None = None,
    *,
    per_gate: bool = False,
    columns: int = 3,
    fig: Figure | SubFigure | None = None,
) -> tuple[Figure | SubFigure, np.ndarray]:
    """Draws how large each update was relative to the weights it changed: ‖Δw‖ / ‖w‖.

    One panel per role, one line per layer, logarithmic, with a guide line at 1e-3, about where healthy
    training lies (CS231n; matrices only: a bias starts at zero, so its ratio starts at infinity, and a
    step whose weights are all zero is a gap). Marks are those of `plot_norms`.

    Args:
        run: the recorded run; weights and updates must be among what was captured.
        keys: weights to draw, by the key of their weight or their update; None for all.
        per_gate: one line per gate; False for one per tensor.
        columns: panels per row at most.
        fig: figure to draw into; None for a new one.

    Returns:
        The figure and its axes ``(panel,)``, one per role.

    Raises:
        ArgumentError: if no tensor has both its weight and its update recorded, or `columns` < 1.
        ArgumentTypeError: if `run` is no run, or `columns` no whole number.
        UnknownTensorError: if nothing was recorded under one of `keys`.

    Example:
        >>> fig, axes = plot_update_ratio(run)  # doctest: +SKIP
    """
    require_history(run)
    owners = owners_of(run)
    names = dict.fromkeys(
        (k.layer, k.direction, k.role) for k in selected_keys(run, keys, ["weight", "update"])
    )
    panels: dict[tuple[str, str], list[Curve]] = {}
    for name in names:
        weight, update = TensorKey(*name, "weight"), TensorKey(*name, "update")
        if weight in owners and update in owners:
            ratio, table = _ratio(run.stats(update), run.stats(weight), per_gate)
            panels.setdefault(("update", weight.role), []).extend(_curves(owners[update], ratio, table))
    if names and not panels:
        raise ArgumentError(
            "an update ratio needs a tensor's weight and update; this run has no tensor with both: record "
            'with capture=("weights", "updates", ...)'
        )
    return draw_curves(run, panels, "‖Δw‖ / ‖w‖", columns, fig, guide=HEALTHY_UPDATE_RATIO)


def plot_histograms(
    run: History,
    key: str | TensorKey,
    *,
    gate: str | None = None,
    ax: Axes | None = None,
    fig: Figure | SubFigure | None = None,
) -> tuple[Figure | SubFigure, np.ndarray]:
    """Draws how the values of one tensor are distributed, over training.

    Values go up on a signed logarithmic axis with the exact zeros in a row of their own in the middle,
    steps to the right, colour is log(1 + number of values in the bin): a bin per factor of two. A
    collapse to zero is a narrowing that ends in a bright row of zeros. A step with NaN or Inf has a red
    mark above it and red in place of the colour for "no value"; the title counts them.

    Args:
        run: the recorded run.
        key: the tensor, as a key or in printed form.
        gate: draw only this gate; None for one panel per gate, on the same axes and colour scale.
        ax: axes to draw into, if there is one panel; the colour bar takes a part of them.
        fig: figure to draw into; None for a new one (or that of `ax`).

    Returns:
        The figure and the axes of its panels ``(gate,)``.

    Raises:
        ArgumentError: for an unknown gate, `ax` with several gates or together with `fig`, or if no step
            or no histogram was recorded.
        ArgumentTypeError: if `run` is no run.
        UnknownTensorError: if nothing was recorded under `key`.

    Example:
        >>> fig, axes = plot_histograms(run, "lstm/forward/kernel:gradient", gate="forget")  # doctest: +SKIP
    """
    require_history(run)
    info = run.info(key)
    table = with_histogram(run.stats(info.key), info.key)
    if gate is not None and gate not in info.gates:
        raise one_of(f"gate of '{info.key}'", gate, info.gates or [None])
    gates: list[str | None] = [gate] if gate is not None else list(info.gates) or [None]
    figure, axes = _stacked_axes(len(gates), ax, fig, str(info.key))
    parts = [table if name is None else table.sel(gate=name) for name in gates]
    counts = np.stack([part["histogram"].values for part in parts])
    rows, norm = value_axis(counts), count_norm(counts)
    for panel, name, part in zip(axes, gates, parts, strict=True):
        mesh = draw_distribution(panel, part, rows, norm)
        _title_distribution(panel, part, str(info.key) if ax is not None else None, name)
    axes[-1].set_xlabel("step")
    label = "values of a sample per bin" if _is_sampled(table) else "values per bin"
    bar = figure.colorbar(mesh, ax=list(axes), aspect=10 + 10 * len(axes), pad=0.02, label=label)
    bar.set_ticks([0, *10 ** np.arange(1 + int(np.log10(max(1, counts.max(initial=1)))))])
    if ax is None:
        figure.suptitle(literal(info.key), fontsize="medium", x=0.01, ha="left")
    return figure, axes


def _is_sampled(table: xr.Dataset) -> bool:
    """Whether histograms hold fewer values than there are."""
    finite = table["count"] - table["nan"] - table["inf"]
    return bool((table["histogram"].sum("bin") < finite).any())


def _title_distribution(ax: Axes, part: xr.Dataset, key: str | None, gate: str | None) -> None:
    note = bad_text(part["step"].values, part["nan"], part["inf"])
    name = " · ".join(filter(None, [key, gate]))
    title = ax.set_title(literal(": ".join(filter(None, [name, note]))), loc="left", fontsize="medium")
    if note:
        title.set(color=BAD, fontsize="small")


def _curves(owner: str, values: xr.DataArray, table: xr.Dataset) -> list[Curve]:
    bad = table["nan"] + table["inf"]
    if "gate" not in values.dims:
        return [Curve(owner, None, values["step"].values, values.values, bad.values)]
    return [
        Curve(
            owner, str(gate), values["step"].values, values.sel(gate=gate).values, bad.sel(gate=gate).values
        )
        for gate in values["gate"].values
    ]


def _without_gates(table: xr.Dataset) -> xr.Dataset:
    if "gate" not in table.dims:
        return table
    merged = table[["count", "nan", "inf"]].sum(dim="gate")
    return merged.assign(norm=(table["norm"] ** 2).sum(dim="gate") ** 0.5)


def _ratio(update: xr.Dataset, weight: xr.Dataset, per_gate: bool) -> tuple[xr.DataArray, xr.Dataset]:
    if not per_gate:
        update, weight = _without_gates(update), _without_gates(weight)
    update, weight = xr.align(update[_SIZES], weight[_SIZES], join="inner")
    # No update is a ratio of 0 whatever the weights are; any other update of zero weights has none.
    ratio = xr.where(update["norm"] == 0, 0.0, update["norm"] / weight["norm"].where(weight["norm"] > 0))
    return ratio, update[["nan", "inf"]] + weight[["nan", "inf"]]


_SIZES = ["norm", "nan", "inf"]


def _stacked_axes(
    count: int, ax: Axes | None, fig: Figure | SubFigure | None, name: str
) -> tuple[Figure | SubFigure, np.ndarray]:
    if ax is None:
        size = (7, 0.9 + 1.3 * count)
        fig = fig if fig is not None else plt.figure(figsize=size, layout="constrained")
        return fig, fig.subplots(count, 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    if fig is not None:
        raise ArgumentError("give ax= or fig=, not both")
    if count > 1:
        raise ArgumentError(
            f"'{name}' has {count} gates, one panel each, and ax= is one; pick one with gate=, or give fig="
        )
    return ax.figure, np.array([ax], dtype=object)
