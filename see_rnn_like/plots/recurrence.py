"""Pictures of what happens inside a recurrent layer: gates, their saturation, memory, spectrum.

Every function takes a Dataset of the one-shot functions, two of them a recorded run as well, and returns
``(figure, axes)``. None of them shows or saves anything.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import cycle, product
from typing import Any, overload

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Circle
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator, PercentFormatter

from see_rnn_like.errors import ArgumentError, ArgumentTypeError
from see_rnn_like.extract.fading import FADED, fading_lag
from see_rnn_like.extract.units import CANDIDATE_LIMITS, GATE_LIMITS, gate_saturation
from see_rnn_like.history import History
from see_rnn_like.plots.colors import bad_visible
from see_rnn_like.plots.curves import (
    DASHES,
    HUES,
    Curve,
    draw_line,
    legend_columns,
    mark_zeros,
    ordered_hues,
    short_name,
)
from see_rnn_like.plots.drawings import Heatmaps
from see_rnn_like.plots.figure import LEGIBLE, add_title, nonfinite_note
from see_rnn_like.plots.grid import whole_locator
from see_rnn_like.plots.probed import saturation_at, strength_over_training
from see_rnn_like.plots.steps import literal, mark_bad_steps, power_text
from see_rnn_like.stats import number_arrays

__all__ = ["plot_gates", "plot_horizon", "plot_saturation", "plot_spectrum"]

#: How the levels are called at which a horizon is read off.
_LEVELS = {"horizon": "1/e", "horizon_1pct": "1%"}
#: So many steps of a run are drawn at most: more lines than these cannot be told apart.
_MOST_STEPS = 5

#: Influences below this are not drawn: they would squeeze what matters into the top of the axis.
_FAINT = 1e-6
#: The lag axis ends at so many times the lag at which everything is below 1%.
_BEYOND = 10

_GREY = "#888888"
_TITLE: dict[str, Any] = {"x": 0.01, "ha": "left"}


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
        sample: number of the sample to draw; None for the mean over samples, at each timestep over those
            that are not masked there.
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
    gates = _variable(traced, "gates", ("sample", "time", "gate", "unit"), "trace()")
    gating = _gating(traced)
    # So that units keep their numbers when some are selected.
    gates = gates.assign_coords(unit=gates["unit"])
    drawn_samples = slice(None) if sample is None else [_sample_number(sample, gates.sizes["sample"])]
    gates = gates.isel(sample=drawn_samples, unit=_unit_numbers(units, gates.sizes["unit"]))
    shown = _mean_over_samples(gates)
    count = len(shown["direction"]), len(shown["gate"])
    fig = _figure(fig, (6.2 * count[0] + 0.8, 0.9 + 1.5 * count[1]))
    axes = fig.subplots(*count[::-1], sharex=True, sharey=True, squeeze=False).T
    for column, name in enumerate(shown["gate"].values):
        _draw_gate(list(axes[:, column]), shown.sel(gate=name), str(name) in gating)
        axes[0, column].set_ylabel("unit")
    for ax in axes[:, -1]:
        ax.set_xlabel("timestep")
    which = f"sample {sample}" if sample is not None else f"mean of {_count(gates.sizes['sample'], 'sample')}"
    _add_title(fig, traced, "", f"gates, {which}", _masked_note(traced, gates, drawn_samples))
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
        ArgumentTypeError: if it is neither a Dataset nor a run.
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
        _variable(shares, side, ("gate", "unit"), "gate_saturation()") for side in ("left", "right")
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
        ax.set_title(_panel_name(left["direction"].values[row], gate) + kind, fontsize="medium")
    note = "" if gating else "this cell has no gates from 0 to 1, only candidates from −1 to 1"
    _add_title(fig, traced, _when(traced), "share of timesteps at which a unit is saturated", note)
    return fig, axes


@overload
def plot_horizon(horizon: xr.Dataset, *, ax: Axes | None = None) -> tuple[Figure | SubFigure, Axes]: ...


@overload
def plot_horizon(
    horizon: History, *, layer: str | None = None, fig: Figure | SubFigure | None = None
) -> tuple[Figure | SubFigure, np.ndarray]: ...


def plot_horizon(
    horizon: xr.Dataset | History,
    *,
    layer: str | None = None,
    ax: Axes | None = None,
    fig: Figure | SubFigure | None = None,
) -> tuple[Figure | SubFigure, Any]:
    """Draws how strongly the last state depends on earlier ones: influence over lag, logarithmic.

    One line per state and direction with a band of one standard error, relative to lag 0. Where the
    furthest-reaching one falls below 1/e and below 1% there is a mark with its lag. Dashed, what the gate
    that keeps the state would leave alone: 2^(−lag / half-life), by the median half-life of the units.
    What is fainter than 1e-6 is off the axis; the lag axis ends at the last lag, or far beyond the lag at
    which everything is below 1%. A NaN or Inf is a gap with a red mark on the top edge, an influence of
    exactly 0 a hollow mark on the bottom edge.

    Of a run, a panel per direction and state of one layer, with a line per step, in colours from dark to
    bright: the first, the last, and at most three in between. Dots mark where a line falls below 1/e and
    1%; the title of the panel tells these lags for the first and the last step.

    Args:
        horizon: the result of `memory_horizon`, or a run that recorded the horizon.
        layer: path of the layer, if the run has several.
        ax: axes to draw the result of `memory_horizon` into; None for a new figure.
        fig: figure to draw a run into, best one with ``layout="constrained"``; None for a new one.

    Returns:
        The figure and the axes; of a run its axes ``(panel,)``, below each other.

    Raises:
        ArgumentError: if it is something else, or empty; if `layer` or `fig` is given without a run, or `ax`
            with one.
        ArgumentTypeError: if it is neither a Dataset nor a run.
        UnknownLayerError: if the run has nothing of this layer.

    Example:
        >>> import numpy as np, xarray as xr
        >>> strength = 0.8 ** np.arange(100.0)[None]
        >>> horizon = xr.Dataset(
        ...     {"strength": (("state", "lag"), strength), "error": (("state", "lag"), strength / 20),
        ...      "half_life": ("unit", [5.0, 7.0])},
        ...     coords={"state": ["h"], "lag": np.arange(100)},
        ...     attrs={"horizon": 4.48, "horizon_1pct": 20.6, "timesteps": 100})
        >>> fig, ax = plot_horizon(horizon)
        >>> ax.get_legend().get_title().get_text().splitlines()[-1]
        'uses 4.48 of 100 steps (to 1/e), 20.6 of 100 (to 1%)'
    """
    if isinstance(horizon, History):
        if ax is not None:
            raise ArgumentError("ax= is one panel and a run has one per state: give fig=")
        return _draw_horizons(strength_over_training(horizon, layer), fig)
    if layer is not None or fig is not None:
        raise ArgumentError("layer= and fig= are for a run; this is a Dataset of one layer: give ax=")
    strength, error = (
        _variable(horizon, name, ("state", "lag"), "memory_horizon()") for name in ("strength", "error")
    )
    strength = _known_lags(strength)
    error = error.isel(lag=slice(strength.sizes["lag"]))
    half_life = _variable(horizon, "half_life", ("unit",), "memory_horizon()")
    missing = [name for name in (*_LEVELS, "timesteps") if name not in horizon.attrs]
    if missing:
        raise ArgumentError(
            f"expected the Dataset that memory_horizon() returns; its attrs have no {missing[0]!r}"
        )
    ax = ax if ax is not None else _figure(None, (7, 3.8)).subplots()
    lags = strength["lag"].values
    _prepare_horizon(ax, lags, strength.values)
    curves = list(_influences(strength))
    for curve, spread, hue in zip(curves, error.values.reshape(len(curves), -1), cycle(HUES), strict=False):
        _draw_influence(ax, curve, spread, hue)
    for kept, dashes in zip(half_life, cycle(DASHES[1:]), strict=False):
        _draw_half_life(ax, lags, kept, dashes)
    mark_bad_steps(ax, sorted({int(lag) for curve in curves for lag in curve.steps[curve.bad > 0]}))
    for name, level in FADED.items():
        _draw_level(ax, level, _LEVELS[name])
        _mark_level(ax, float(horizon.attrs[name]), level)
    heading = _heading(horizon, "memory") + "\n" + _uses(horizon)
    # A heading of the legend, so that neither lies on the other.
    ax.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=2,
        frameon=False,
        fontsize="small",
        title=heading,
        alignment="left",
    )
    return ax.figure, ax


def plot_spectrum(
    spectrum: xr.Dataset, *, fig: Figure | SubFigure | None = None
) -> tuple[Figure | SubFigure, np.ndarray]:
    r"""Draws the eigenvalues of the recurrent kernel per gate, with the unit circle, and its singular values.

    In a linear recurrence what lies along an eigenvector fades step by step if its eigenvalue is inside the
    circle and grows if it is outside; the angle is how far it turns. With an activation whose slope is at
    most γ (1 for tanh, 1/4 for sigmoid), a largest singular value below 1/γ is enough for gradients to vanish
    (Pascanu, Mikolov & Bengio 2013, "On the difficulty of training recurrent neural networks", section 2.1).
    Gates scale this further: of LSTM and GRU it is a part of the answer only. All panels share limits.

    Args:
        spectrum: the result of `recurrent_spectrum`.
        fig: figure to draw into, best one with ``layout="constrained"``; None for a new one.

    Returns:
        The figure and its axes ``(direction, gate, 2)``: the complex plane and the singular values below it.

    Raises:
        ArgumentError: if it is something else, or empty.
        ArgumentTypeError: if it is no Dataset.

    Example:
        >>> import numpy as np, xarray as xr
        >>> turn = np.array([[0.8, -0.6], [0.6, 0.8]])
        >>> spectrum = xr.Dataset({"eigenvalues": (("gate", "index"), np.linalg.eigvals(turn)[None]),
        ...                        "singular_values": (("gate", "index"), np.ones((1, 2)))},
        ...                       coords={"gate": ["hidden"]})
        >>> fig, axes = plot_spectrum(spectrum)
        >>> axes[0, 0, 0].get_title()
        'hidden\nspectral radius 1'
    """
    eigenvalues, singular = (
        _variable(spectrum, name, ("gate", "index"), "recurrent_spectrum()")
        for name in ("eigenvalues", "singular_values")
    )
    rows, columns = eigenvalues.sizes["direction"], eigenvalues.sizes["gate"]
    fig = _figure(fig, (max(4.6, 0.6 + 2.3 * columns), 0.5 + 4.4 * rows))
    grid = fig.subplots(2 * rows, columns, squeeze=False, height_ratios=[2, 1] * rows)
    axes = grid.reshape(rows, 2, columns).transpose(0, 2, 1)
    for row, column in product(range(rows), range(columns)):
        values = eigenvalues.isel(direction=row, gate=column)
        plane, below = axes[row, column]
        _draw_eigenvalues(plane, values.values, HUES[row % len(HUES)])
        _draw_singular_values(below, singular.isel(direction=row, gate=column).values, HUES[row % len(HUES)])
        name = _panel_name(values["direction"].values, values["gate"].values)
        plane.set_title(f"{name}\n{_radius_note(values.values)}", fontsize="medium")
    _share_limits(axes, eigenvalues.values, singular.values)
    _add_title(fig, spectrum, "", "spectrum of the recurrent kernel")
    return fig, axes


# ---------------------------------------------------------------------------- what is given


def _variable(given: Any, name: str, dims: tuple[str, ...], maker: str) -> xr.DataArray:
    """A variable as numbers ``(direction, *dims)``; without directions there is one, named "".

    A dimension from which one entry was selected, such as ``.sel(gate="forget")``, comes back.
    """
    if not isinstance(given, xr.Dataset):
        raise ArgumentTypeError(f"expected the Dataset that {maker} returns; got {reprlib.repr(given)}")
    if name not in given.data_vars:
        found = ", ".join(map(str, given.data_vars)) or "nothing"
        raise ArgumentError(f"expected the Dataset that {maker} returns, with {name!r}; this one has {found}")
    array = given[name]
    number_arrays(array.values)
    for dim in ("direction", *dims):
        if dim in array.coords and dim not in array.dims:
            array = array.expand_dims(dim)
    if "direction" not in array.dims:
        array = array.expand_dims(direction=[""])
    if set(array.dims) != {"direction", *dims}:
        raise ArgumentError(
            f"{name!r} of {maker} has the dimensions {', '.join(dims)}, after direction if there is one; got "
            f"{', '.join(map(str, given[name].dims))}. Select with a list to keep a dimension: "
            ".isel(unit=[3]); of several steps take one: .sel(step=100)"
        )
    if not array.size:
        raise ArgumentError(f"nothing to draw: {name!r} is empty, {dict(array.sizes)}")
    return array.transpose("direction", *dims)


def _gating(given: xr.Dataset) -> list[str]:
    if "gating" not in given.attrs:
        raise ArgumentError(
            "attrs['gating'], the names of the gates that go from 0 to 1, is lost; trace() sets it: "
            "give it back with .assign_attrs(gating=traced.attrs['gating'])"
        )
    return list(given.attrs["gating"])


def _when(given: xr.Dataset | xr.DataArray) -> str:
    """Step and batch of what a run recorded; empty for what was computed just now."""
    step = f"step {given.attrs['step']}" if "step" in given.attrs else ""
    return ", ".join(filter(None, [step, literal(given.attrs.get("from", ""))]))


def _saturation(given: Any) -> xr.Dataset:
    if not (isinstance(given, xr.Dataset) and "gates" in given):
        return given
    _variable(given, "gates", ("sample", "time", "gate", "unit"), "trace()")
    _gating(given)
    return gate_saturation(given)


def _sample_number(sample: Any, count: int) -> int:
    if isinstance(sample, bool) or not isinstance(sample, (int, np.integer)):
        raise ArgumentTypeError(f"sample is the number of a sample, or None for the mean; got {sample!r}")
    if not -count <= sample < count:
        raise ArgumentError(f"there is no sample {sample}; the trace has {count}, counted from 0")
    return int(sample)


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


# ---------------------------------------------------------------------------- figures and titles


def _figure(fig: Figure | SubFigure | None, size: tuple[float, float]) -> Figure | SubFigure:
    if fig is not None:
        return fig
    # A little more air between rows than matplotlib's, in inches.
    return plt.figure(figsize=size, layout=ConstrainedLayoutEngine(h_pad=0.08))


def _heading(given: xr.Dataset | xr.DataArray, text: str) -> str:
    layer, cell = (str(given.attrs.get(name, "")) for name in ("layer", "cell"))
    who = literal(" ".join(filter(None, [short_name(layer), cell and f"({cell})"])))
    return ": ".join(filter(None, [who, text]))


def _add_title(fig: Any, given: xr.Dataset | xr.DataArray, when: str, text: str, note: str = "") -> None:
    """Says what is drawn, below the layer and when it was recorded, or beside the layer if it was not."""
    lines = [_heading(given, when), text, note] if when else [_heading(given, text), note]
    add_title(fig, "\n".join(filter(None, lines)), _TITLE)


def _panel_name(direction: Any, gate: Any) -> str:
    return literal(" · ".join(filter(None, [str(direction), str(gate)])))


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'s' * (number != 1)}"


def _tidy(ax: Axes) -> None:
    ax.grid(True, color=_GREY, alpha=0.25, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


# ---------------------------------------------------------------------------- gates


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
        ax.set_title(_panel_name(values["direction"].values[panel], values["gate"].values), fontsize="medium")
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
    note = f"{number:,} of {_count(masked.size, 'timestep')} masked" if number else ""
    return ", ".join(filter(None, [note, nonfinite_note(gates.where(~masked, 0.0).values)]))


# ---------------------------------------------------------------------------- saturation


def _panels_of_gates(
    rows: int, gates: int, columns: int | None, fig: Figure | SubFigure | None
) -> tuple[np.ndarray, Figure | SubFigure]:
    """Axes ``(direction, gate)``, each direction on as many lines as its gates need, named at the edges."""
    if columns is not None and columns < 1:
        raise ArgumentError(f"columns must be at least 1; got {columns}")
    columns = min(columns or gates, gates)
    lines = -(-gates // columns)
    fig = _figure(fig, (max(4.6, 0.6 + 2.2 * columns), 0.85 + 2.2 * rows * lines))
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
    _tidy(ax)
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MultipleLocator(0.5))
        axis.set_major_formatter(PercentFormatter(1.0))
    ax.plot([0, 1], [1, 0], color=_GREY, linewidth=1, zorder=1)
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
            f"mean of {_count(int(known.sum()), 'unit')}",
            f"{left[known].mean():.0%} below {power_text(limits[0])}",
            f"{right[known].mean():.0%} above {power_text(limits[1])}",
        ]
    if not known.all():
        lines.append(f"{(~known).sum():,} NaN")
    return "\n".join(lines)


# ---------------------------------------------------------------------------- horizon


def _influences(strength: xr.DataArray) -> Iterator[Curve]:
    for direction, state in product(strength["direction"].values, strength["state"].values):
        values = strength.sel(direction=direction, state=state).values.astype("float64")
        name = " · ".join(filter(None, [str(direction), str(state)]))
        yield Curve(name, None, strength["lag"].values, values, (~np.isfinite(values)).astype("int64"))


def _prepare_horizon(ax: Axes, lags: np.ndarray, strength: np.ndarray) -> None:
    """Axes, limits and grid; the range is that of what is drawn, with 1% and 1 in it."""
    drawn = strength[np.isfinite(strength) & (strength > 0)]
    low, high = np.clip(drawn.min(initial=0.005), _FAINT, None), drawn.max(initial=1.0)
    ax.set_yscale("log", nonpositive="mask")
    ax.set_ylim(low / (high / low) ** 0.04, high * (high / low) ** 0.06)
    ax.yaxis.set_major_formatter(FuncFormatter(power_text))
    strong = np.flatnonzero((strength >= FADED["horizon_1pct"]).reshape(-1, len(lags)).any(0))
    reach = _BEYOND * (lags[strong[-1]] + 1) if strong.size else lags[-1]
    last = float(min(lags[-1], reach)) or 1.0
    ax.set_xlim(0, last)
    ax.xaxis.set_major_locator(whole_locator())
    ax.set(xlabel="lag (timesteps before the last)", ylabel="influence, relative to lag 0")
    _tidy(ax)


def _draw_influence(ax: Axes, curve: Curve, error: np.ndarray, hue: str) -> None:
    draw_line(ax, curve, hue)
    mark_zeros(ax, curve, hue)
    low = np.maximum(curve.values - error, ax.get_ylim()[0] / 10)
    ax.fill_between(curve.steps, low, curve.values + error, color=hue, alpha=0.2, linewidth=0)


def _draw_half_life(ax: Axes, lags: np.ndarray, half_life: xr.DataArray, dashes: Any) -> None:
    known = half_life.values[~np.isnan(half_life.values)]
    if not known.size:
        return
    middle = float(np.median(known))
    which = " ".join(filter(None, [str(half_life["direction"].values), "gate half-life:"]))
    steps = f"{middle:.3g} steps" if np.isfinite(middle) else "endless"
    label = f"{which} {steps} (median of {_count(known.size, 'unit')})"
    # A gate that is shut has a half-life of 0: nothing is left one step later.
    left = 2.0 ** (-lags / max(middle, 1e-4))
    ax.plot(lags, left, color=_GREY, linestyle=dashes, linewidth=1.4, label=label)


def _draw_level(ax: Axes, level: float, name: str) -> None:
    ax.axhline(level, color=_GREY, linewidth=0.8, zorder=1)
    edge = ax.get_yaxis_transform()
    ax.annotate(
        name, (1, level), (4, 0), xycoords=edge, textcoords="offset points", va="center", color="#555555"
    )


def _mark_level(ax: Axes, lag: float, level: float) -> None:
    if np.isfinite(lag):
        ax.plot(lag, level, marker="o", markersize=6, color="black", markerfacecolor="white", zorder=5)
        ax.annotate(f"{lag:.3g}", (lag, level), (5, 5), textcoords="offset points", zorder=6, **LEGIBLE)


def _known_lags(strength: xr.DataArray) -> xr.DataArray:
    """Without the last lags where no sample is so long: there everything is NaN, and else nothing is."""
    known = np.flatnonzero(strength.notnull().any([dim for dim in strength.dims if dim != "lag"]))
    reached = strength.isel(lag=slice(1 + known[-1] if known.size else 0))
    return reached if reached.sizes["lag"] > 1 and np.isfinite(reached.values).all() else strength


def _draw_horizons(recorded: xr.DataArray, fig: Figure | SubFigure | None) -> tuple[Any, np.ndarray]:
    """Draws the influences that a run recorded; see `plot_horizon`."""
    strength = _variable(recorded.to_dataset(), "strength", ("state", "step", "lag"), "a run")
    strength = _some_steps(_known_lags(strength))
    names = list(product(strength["direction"].values, strength["state"].values))
    fig = _figure(fig, (7, 1.1 + 2.3 * len(names)))
    axes = fig.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    for ax, (direction, state) in zip(axes, names, strict=True):
        panel = strength.sel(direction=direction, state=state)
        _prepare_horizon(ax, strength["lag"].values, strength.values)
        _draw_steps(ax, panel)
        ax.set_title(f"{_panel_name(direction, state)}: {_reach(panel)}", loc="left", fontsize="small")
        ax.set_ylabel("influence")
    for ax in axes[:-1]:
        ax.set_xlabel("")
    shown: dict[str, Any] = {
        label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    lines = -(-len(shown) // legend_columns(fig, list(shown)))
    columns = -(-len(shown) // lines)
    fig.legend(
        shown.values(), shown, loc="outside lower center", ncols=columns, frameon=False, fontsize="small"
    )
    ends = " → ".join(dict.fromkeys(str(strength["step"].values[end]) for end in (0, -1)))
    when = _when(strength.assign_attrs(step=ends))
    _add_title(fig, strength, when, "influence on the last state, relative to lag 0")
    return fig, axes


def _some_steps(strength: xr.DataArray) -> xr.DataArray:
    """The first step, the last, and some in between."""
    count = strength.sizes["step"]
    return strength.isel(step=np.linspace(0, count - 1, min(count, _MOST_STEPS)).round().astype("int64"))


def _draw_steps(ax: Axes, panel: xr.DataArray) -> None:
    """Draws one line ``(step, lag)`` per step, with dots where it falls below 1/e and 1%."""
    for name, level in FADED.items():
        _draw_level(ax, level, _LEVELS[name])
    lags, levels = panel["lag"].values, list(FADED.values())
    for values, hue in zip(panel, ordered_hues(len(panel)), strict=True):
        bad = (~np.isfinite(values.values)).astype("int64")
        curve = Curve(f"step {values['step'].item()}", None, lags, values.values.astype("float64"), bad)
        draw_line(ax, curve, hue)
        mark_zeros(ax, curve, hue)
        reached = [fading_lag(curve.values, level) for level in levels]
        ax.plot(reached, levels, marker="o", markersize=4, color=hue, linestyle="none", zorder=5)
    mark_bad_steps(ax, lags[~np.isfinite(panel.values).all(0)])


def _reach(panel: xr.DataArray) -> str:
    """How far back it reaches at the first step and at the last: ``1/e at 2.1 → 3.4, 1% at 20 → > 59``."""
    ends = panel.values[list(dict.fromkeys([0, len(panel) - 1]))]
    texts = {
        name: " → ".join(_lag_text(fading_lag(values, level), len(values)) for values in ends)
        for name, level in FADED.items()
    }
    return ", ".join(f"{_LEVELS[name]} at {text}" for name, text in texts.items())


def _lag_text(lag: float, lags: int) -> str:
    if np.isnan(lag):
        return "NaN"
    return f"{lag:.3g}" if np.isfinite(lag) else f"> {lags - 1}"


def _uses(horizon: xr.Dataset) -> str:
    lags = {name: float(horizon.attrs[name]) for name in _LEVELS}
    if np.isnan(list(lags.values())).any():
        return "no horizon: the influence is not a finite number"
    total = int(horizon.attrs["timesteps"])
    first, then = (
        f"{lag:.3g} of {total:,}" if np.isfinite(lag) else f"all {total:,}" for lag in lags.values()
    )
    return f"uses {first} step{'s' * (total != 1)} (to 1/e), {then} (to 1%)"


# ---------------------------------------------------------------------------- spectrum


def _draw_eigenvalues(ax: Axes, eigenvalues: np.ndarray, hue: str) -> None:
    _tidy(ax)
    ax.add_patch(Circle((0, 0), 1, fill=False, color=_GREY, linewidth=1.2, zorder=1))
    ax.scatter(eigenvalues.real, eigenvalues.imag, s=14, facecolor=hue, alpha=0.6, linewidths=0, zorder=3)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 5, 10]))
    ax.set(aspect="equal", xlabel="real part")


def _draw_singular_values(ax: Axes, values: np.ndarray, hue: str) -> None:
    _tidy(ax)
    ax.axhline(1, color=_GREY, linewidth=1.2, zorder=1)
    ax.plot(np.arange(1, 1 + values.size), values, color=hue, marker=".", markersize=4, linewidth=1)
    ax.xaxis.set_major_locator(whole_locator())
    ax.set(xlabel="rank", xlim=(0.5, values.size + 0.5))


def _radius_note(eigenvalues: np.ndarray) -> str:
    sizes = np.abs(eigenvalues)
    finite = sizes[np.isfinite(sizes)]
    radius = f"spectral radius {finite.max():.3g}" if finite.size else "no spectral radius"
    return ", ".join(filter(None, [radius, nonfinite_note(sizes)]))


def _share_limits(axes: np.ndarray, eigenvalues: np.ndarray, singular: np.ndarray) -> None:
    """The same limits for all panels: gates compare, and the circle is as large in each; labels once."""
    sizes = np.abs(eigenvalues)
    reach = 1.1 * sizes[np.isfinite(sizes)].max(initial=1.0)
    top = 1.1 * singular[np.isfinite(singular)].max(initial=1.0)
    for plane, below in axes.reshape(-1, 2):
        plane.set(xlim=(-reach, reach), ylim=(-reach, reach))
        below.set_ylim(0, top)
    for ax in axes[:, 1:].ravel():
        ax.tick_params(labelleft=False)
    for plane, below in axes[:, 0]:
        plane.set_ylabel("imaginary part")
        below.set_ylabel("singular value")
