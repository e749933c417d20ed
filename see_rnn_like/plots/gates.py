"""Pictures of the gates of a recurrent layer: over time, and how often they are stuck.

Both functions take a trace, one of them a recorded run as well, and return ``(figure, axes)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FuncFormatter, MultipleLocator, PercentFormatter

from see_rnn_like.errors import ArgumentError, ArgumentTypeError
from see_rnn_like.extract.units import CANDIDATE_LIMITS, GATE_LIMITS, gate_saturation
from see_rnn_like.history import History
from see_rnn_like.plots.arguments import column_count, position
from see_rnn_like.plots.colors import bad_visible
from see_rnn_like.plots.curves import HUES
from see_rnn_like.plots.drawings import Heatmaps
from see_rnn_like.plots.figure import nonfinite_note
from see_rnn_like.plots.grid import whole_locator
from see_rnn_like.plots.layers import (
    GREY,
    add_heading,
    counted,
    figure_of,
    panel_name,
    recorded_at,
    tidy,
    variable,
)
from see_rnn_like.plots.probed import saturation_at
from see_rnn_like.plots.steps import literal, power_text


def plot_gates(
    traced: xr.Dataset,
    *,
    sample: int | None = None,
    units: int | slice | Sequence[int] | None = None,
    fig: Figure | SubFigure | None = None,
) -> tuple[Figure | SubFigure, np.ndarray]:
    """Draws every gate of a recurrent layer over time: timesteps to the right, units down.

    One row of panels per gate, one column per direction. Gates that go from 0 (closed) to 1 (open) have
    a grey scale from dark to bright, candidates from −1 to 1 a diverging one with white at 0; values
    beyond (of another activation) widen the scale. Timesteps that are masked, and NaN and Inf, are green
    and counted in the title.

    Args:
        traced: the result of `trace`.
        sample: number of the sample to draw, from 0; None for the mean over samples, at each timestep over
            those that are not masked there.
        units: units to draw: a number, a slice or a sequence of numbers; None for all.
        fig: figure to draw into, best one with ``layout="constrained"``; None for a new one.

    Returns:
        The figure and its axes ``(direction, gate)``; a layer without directions has one.

    Raises:
        ArgumentError: if it is no trace or an empty one, or there is no such sample or unit.
        ArgumentTypeError: if it is no Dataset, or `sample` or `units` are no whole numbers.

    Example:
        >>> import numpy as np, xarray as xr
        >>> values = np.random.default_rng(0).uniform(size=(4, 30, 2, 8))
        >>> traced = xr.Dataset({"gates": (("sample", "time", "gate", "unit"), values)},
        ...                     coords={"gate": ["update", "reset"]}, attrs={"gating": ["update", "reset"]})
        >>> fig, axes = plot_gates(traced, sample=0, units=slice(5))
        >>> axes.shape
        (1, 2)
    """
    gates = variable(traced, "gates", ("sample", "time", "gate", "unit"), "trace()")
    gating = _gating(traced)
    # So that units keep their numbers when some are selected.
    gates = gates.assign_coords(unit=gates["unit"])
    drawn_samples = slice(None) if sample is None else [position("sample", sample, gates.sizes["sample"])]
    gates = gates.isel(sample=drawn_samples, unit=_unit_numbers(units, gates.sizes["unit"]))
    shown = _mean_over_samples(gates)
    count = len(shown["direction"]), len(shown["gate"])
    fig = figure_of(fig, (6.2 * count[0] + 0.8, 0.9 + 1.5 * count[1]))
    axes = fig.subplots(*count[::-1], sharex=True, sharey=True, squeeze=False).T
    for column, name in enumerate(shown["gate"].values):
        _draw_gate(list(axes[:, column]), shown.sel(gate=name), str(name) in gating)
        axes[0, column].set_ylabel("unit")
    for ax in axes[:, -1]:
        ax.set_xlabel("timestep")
    which = (
        f"sample {sample}" if sample is not None else f"mean of {counted(gates.sizes['sample'], 'sample')}"
    )
    add_heading(fig, traced, "", f"gates, {which}", _masked_note(traced, gates, drawn_samples))
    return fig, axes


def plot_saturation(
    traced: xr.Dataset | History,
    *,
    layer: str | None = None,
    step: int | None = None,
    columns: int | None = None,
    fig: Figure | SubFigure | None = None,
) -> tuple[Figure | SubFigure, np.ndarray]:
    """Draws how often each unit's gates are stuck at an end of their range: a dot per unit.

    The saturation plot of Karpathy, Johnson & Li 2015, "Visualizing and understanding recurrent networks",
    section 4.2: to the right the share of timesteps at which a gate is right-saturated (above 0.9), up the
    share at which it is left-saturated (below 0.1); together they are at most 1, the diagonal. A forget
    gate at the lower right keeps its state nearly always, one at the upper left never. Candidates (LSTM's
    ``cell``, GRU's ``new``, SimpleRNN's ``hidden``), which the paper leaves out, go from −1 to 1 and are
    drawn with the limits −0.9 and 0.9. The text in each panel tells the limits and the means over units.

    Args:
        traced: the result of `trace` or of `gate_saturation`, or a run that recorded the gates.
        layer: path of the layer, if the run has several.
        step: recorded step of the run; None for the last one.
        columns: panels per row at most; None for a row per direction.
        fig: figure to draw into, best one with ``layout="constrained"``; None for a new one.

    Returns:
        The figure and its axes ``(direction, gate)``; a layer without directions has one.

    Raises:
        ArgumentError: if it is none of the three, or an empty one; if `columns` < 1, the run has no such
            step, or `layer` or `step` is given without a run.
        ArgumentTypeError: if it is neither a Dataset nor a run, or `columns` or `step` is no whole number.
        UnknownLayerError: if the run has nothing of this layer.

    Example:
        >>> import numpy as np, xarray as xr
        >>> left = np.array([[0.7, 0.1], [0.0, 0.2]])
        >>> shares = xr.Dataset({"left": (("gate", "unit"), left), "right": (("gate", "unit"), 0.9 - left)},
        ...                     coords={"gate": ["update", "reset"]}, attrs={"gating": ["update", "reset"]})
        >>> fig, axes = plot_saturation(shares)
        >>> axes[0, 1].get_title()
        'reset'
    """
    if isinstance(traced, History):
        traced = saturation_at(traced, layer, step)
    elif layer is not None or step is not None:
        raise ArgumentError("layer= and step= pick what to draw of a run; this is a Dataset of one layer")
    shares = _saturation(traced)
    left, right = (
        variable(shares, side, ("gate", "unit"), "gate_saturation()") for side in ("left", "right")
    )
    gating = _gating(traced)
    rows, gates = left.sizes["direction"], left.sizes["gate"]
    axes, fig = _panels_of_gates(rows, gates, columns, fig)
    for row, column in product(range(rows), range(gates)):
        ax, place = axes[row, column], {"direction": row, "gate": column}
        gate = str(left["gate"].values[column])
        limits = GATE_LIMITS if gate in gating else CANDIDATE_LIMITS
        _draw_saturation(ax, left.isel(place).values, right.isel(place).values, HUES[row % len(HUES)], limits)
        kind = "" if gate in gating else " (candidate)"
        ax.set_title(panel_name(left["direction"].values[row], gate) + kind, fontsize="medium")
    note = "" if gating else "this cell has no gates from 0 to 1, only candidates from −1 to 1"
    add_heading(fig, traced, recorded_at(traced), "share of timesteps at which a unit is saturated", note)
    return fig, axes


def _gating(given: xr.Dataset) -> list[str]:
    if "gating" not in given.attrs:
        raise ArgumentError(
            "attrs['gating'], the names of the gates that go from 0 to 1, is lost; trace() sets it: "
            "give it back with .assign_attrs(gating=traced.attrs['gating'])"
        )
    return list(given.attrs["gating"])


def _saturation(given: Any) -> xr.Dataset:
    if not (isinstance(given, xr.Dataset) and "gates" in given):
        return given
    variable(given, "gates", ("sample", "time", "gate", "unit"), "trace()")
    _gating(given)
    return gate_saturation(given)


def _unit_numbers(units: Any, count: int) -> np.ndarray:
    every = np.arange(count)
    if units is None:
        return every
    wanted = every[units] if isinstance(units, slice) else np.atleast_1d(np.asarray(units))
    if wanted.size and (wanted.ndim != 1 or wanted.dtype.kind not in "iu"):
        raise ArgumentTypeError(
            f"units is a whole number, a slice, a sequence of them, or None; got {units!r}"
        )
    if not wanted.size or wanted.min() < -count or wanted.max() >= count:
        raise ArgumentError(f"units must be some of the {count} units, counted from 0; got {units!r}")
    return every[wanted]


def _mean_over_samples(gates: xr.DataArray) -> xr.DataArray:
    # Opposite infinities have no mean: NaN, and that is what is drawn.
    with np.errstate(invalid="ignore"):
        return gates.astype("float64").mean("sample")


def _draw_gate(axes: list[Axes], values: xr.DataArray, gating: bool) -> None:
    """Draws one gate in its panel of each direction; `values` are ``(direction, time, unit)``."""
    images = np.ma.masked_invalid(values.transpose("direction", "unit", "time").values)
    pictures = Heatmaps(images, *_gate_colors(images.compressed(), gating), {})
    for panel, ax in enumerate(axes):
        pictures.draw(ax, panel)
        ax.set_title(panel_name(values["direction"].values[panel], values["gate"].values), fontsize="medium")
        _name_ticks(ax.xaxis, values["time"].values)
        _name_ticks(ax.yaxis, values["unit"].values)
    fig: Any = axes[-1].get_figure()
    fig.colorbar(axes[-1].images[0], ax=axes, pad=0.01, aspect=12)


def _gate_colors(finite: np.ndarray, gating: bool) -> tuple[Colormap, Normalize]:
    if gating:
        return bad_visible("bone"), Normalize(finite.min(initial=0.0), finite.max(initial=1.0))
    reach = np.abs(finite).max(initial=1.0)
    return bad_visible("RdBu_r"), Normalize(-reach, reach)


def _name_ticks(axis: Axis, names: np.ndarray) -> None:
    """Ticks at the cells of an image, by their names, which are not 0, 1, … if some were selected."""
    axis.set_major_locator(whole_locator())
    axis.set_major_formatter(FuncFormatter(partial(_name_at, names)))


def _name_at(names: np.ndarray, place: float, _position: int | None = None) -> str:
    return literal(names[round(place)]) if 0 <= round(place) < len(names) else ""


def _masked_note(traced: xr.Dataset, gates: xr.DataArray, samples: Any) -> str:
    """How many timesteps are masked, and how many other values are not finite; empty if none.

    At a masked timestep all gates are NaN while the states, carried over it, are numbers.
    """
    masked = gates.isnull().all(("direction", "gate", "unit"))
    if "h" in traced:
        others = set(traced["h"].dims) - {"sample", "time"}
        masked = masked & traced["h"].isel(sample=samples).notnull().all(others)
    else:
        masked = xr.zeros_like(masked)
    number = int(masked.sum())
    note = f"{number:,} of {counted(masked.size, 'timestep')} masked" if number else ""
    return ", ".join(filter(None, [note, nonfinite_note(gates.where(~masked, 0.0).values)]))


def _panels_of_gates(
    rows: int, gates: int, columns: int | None, fig: Figure | SubFigure | None
) -> tuple[np.ndarray, Figure | SubFigure]:
    """Axes ``(direction, gate)``, each direction on as many lines as its gates need, named at the edges."""
    columns = column_count(columns, gates)
    lines = -(-gates // columns)
    fig = figure_of(fig, (max(4.6, 0.6 + 2.2 * columns), 0.85 + 2.2 * rows * lines))
    grid = fig.subplots(rows * lines, columns, sharex=True, sharey=True, squeeze=False)
    for ax in grid[:, 0]:
        ax.set_ylabel("left-saturated")
    by_direction = grid.reshape(rows, lines * columns)
    for ax in by_direction[:, gates:].flat:
        ax.remove()
    for ax in by_direction[-1, max(gates - columns, 0) : gates]:
        ax.set_xlabel("right-saturated")
        ax.tick_params(labelbottom=True)
    return by_direction[:, :gates], fig


def _draw_saturation(
    ax: Axes, left: np.ndarray, right: np.ndarray, hue: str, limits: tuple[float, float]
) -> None:
    tidy(ax)
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MultipleLocator(0.5))
        axis.set_major_formatter(PercentFormatter(1.0))
    ax.plot([0, 1], [1, 0], color=GREY, linewidth=1, zorder=1)
    # Many dots are pale, so that it shows where they lie on each other.
    pale = float(np.clip(8 / left.size, 0.3, 0.8))
    ax.scatter(right, left, s=26, facecolor=hue, alpha=pale, linewidths=0, clip_on=False, zorder=3)
    # No unit can be there: its shares would add up to more than 1.
    text = _mean_shares(left, right, limits)
    ax.text(0.99, 0.99, text, ha="right", va="top", fontsize="small", transform=ax.transAxes)


def _mean_shares(left: np.ndarray, right: np.ndarray, limits: tuple[float, float]) -> str:
    known = np.isfinite(left) & np.isfinite(right)
    lines = []
    if known.any():
        lines = [
            f"mean of {counted(int(known.sum()), 'unit')}",
            f"{left[known].mean():.0%} below {power_text(limits[0])}",
            f"{right[known].mean():.0%} above {power_text(limits[1])}",
        ]
    if not known.all():
        lines.append(f"{(~known).sum():,} NaN")
    return "\n".join(lines)
