"""How far back a recurrent layer remembers, now or over training, as a picture."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle, product
from typing import Any, overload

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FuncFormatter

from see_rnn_like.errors import ArgumentError
from see_rnn_like.extract.fading import FADED, fading_lag
from see_rnn_like.history import History
from see_rnn_like.plots.curves import (
    DASHES,
    HUES,
    Curve,
    draw_line,
    legend_columns,
    mark_zeros,
    ordered_hues,
)
from see_rnn_like.plots.figure import LEGIBLE
from see_rnn_like.plots.grid import whole_locator
from see_rnn_like.plots.layers import (
    GREY,
    add_heading,
    counted,
    figure_of,
    heading,
    panel_name,
    recorded_at,
    tidy,
    variable,
)
from see_rnn_like.plots.probed import strength_over_training
from see_rnn_like.plots.steps import mark_bad_steps, power_text

#: How the levels are called at which a horizon is read off.
_LEVELS = {"horizon": "1/e", "horizon_1pct": "1%"}
#: So many steps of a run are drawn at most: more lines than these cannot be told apart.
_MOST_STEPS = 5
#: Influences below this are not drawn: they would squeeze what matters into the top of the axis.
_FAINT = 1e-6
#: The lag axis ends at so many times the lag at which everything is below 1%.
_BEYOND = 10


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
        variable(horizon, name, ("state", "lag"), "memory_horizon()") for name in ("strength", "error")
    )
    strength = _drawn_lags(strength)
    error = error.isel(lag=slice(strength.sizes["lag"]))
    half_life = variable(horizon, "half_life", ("unit",), "memory_horizon()")
    missing = [name for name in (*_LEVELS, "timesteps") if name not in horizon.attrs]
    if missing:
        raise ArgumentError(
            f"expected the Dataset that memory_horizon() returns; its attrs have no {missing[0]!r}"
        )
    ax = ax if ax is not None else figure_of(None, (7, 3.8)).subplots()
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
    told = heading(horizon, "memory") + "\n" + _uses(horizon)
    # A heading of the legend, so that neither lies on the other.
    ax.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=2,
        frameon=False,
        fontsize="small",
        title=told,
        alignment="left",
    )
    return ax.figure, ax


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
    ax.set_xlim(0, float(lags[-1]) or 1.0)
    ax.xaxis.set_major_locator(whole_locator())
    ax.set(xlabel="lag (timesteps before the last)", ylabel="influence, relative to lag 0")
    tidy(ax)


def _draw_influence(ax: Axes, curve: Curve, error: np.ndarray, hue: str) -> None:
    draw_line(ax, curve, hue)
    mark_zeros(ax, curve, hue)
    # Below the axis, but above 0: a logarithmic axis leaves out a corner at 0 and joins its neighbours.
    floor = ax.get_ylim()[0] / 10
    low, high = (np.maximum(curve.values + side * error, floor) for side in (-1, 1))
    ax.fill_between(curve.steps, low, high, color=hue, alpha=0.2, linewidth=0)


def _draw_half_life(ax: Axes, lags: np.ndarray, half_life: xr.DataArray, dashes: Any) -> None:
    known = half_life.values[~np.isnan(half_life.values)]
    if not known.size:
        return
    middle = float(np.median(known))
    which = " ".join(filter(None, [str(half_life["direction"].values), "gate half-life:"]))
    steps = f"{middle:.3g} steps" if np.isfinite(middle) else "endless"
    label = f"{which} {steps} (median of {counted(known.size, 'unit')})"
    # A gate that is shut has a half-life of 0: nothing is left one step later.
    left = 2.0 ** (-lags / max(middle, 1e-4))
    ax.plot(lags, left, color=GREY, linestyle=dashes, linewidth=1.4, label=label)


def _draw_level(ax: Axes, level: float, name: str) -> None:
    ax.axhline(level, color=GREY, linewidth=0.8, zorder=1)
    edge = ax.get_yaxis_transform()
    ax.annotate(
        name, (1, level), (4, 0), xycoords=edge, textcoords="offset points", va="center", color="#555555"
    )


def _mark_level(ax: Axes, lag: float, level: float) -> None:
    if np.isfinite(lag):
        ax.plot(lag, level, marker="o", markersize=6, color="black", markerfacecolor="white", zorder=5)
        ax.annotate(f"{lag:.3g}", (lag, level), (5, 5), textcoords="offset points", zorder=6, **LEGIBLE)


def _drawn_lags(strength: xr.DataArray) -> xr.DataArray:
    """The lags of the axis: those that are known, and not far beyond the last at which anything is above 1%.

    What is no number stays on the axis wherever it is.
    """
    known = _known_lags(strength)
    lags = known["lag"].values
    curves = known.transpose(..., "lag").values.reshape(-1, len(lags))
    strong = lags[(np.isfinite(curves) & (curves >= FADED["horizon_1pct"])).any(0)]
    bad = lags[~np.isfinite(curves).all(0)]
    if not strong.size:
        return known
    reach = max(_BEYOND * (strong.max() + 1), bad.max(initial=0))
    return known.isel(lag=np.flatnonzero(lags <= reach))


def _known_lags(strength: xr.DataArray) -> xr.DataArray:
    """Without the last lags where no sample is so long: there everything is NaN, and else nothing is."""
    known = np.flatnonzero(strength.notnull().any([dim for dim in strength.dims if dim != "lag"]))
    reached = strength.isel(lag=slice(1 + known[-1] if known.size else 0))
    return reached if reached.sizes["lag"] > 1 and np.isfinite(reached.values).all() else strength


def _draw_horizons(recorded: xr.DataArray, fig: Figure | SubFigure | None) -> tuple[Any, np.ndarray]:
    """Draws the influences that a run recorded; see `plot_horizon`."""
    strength = variable(recorded.to_dataset(), "strength", ("state", "step", "lag"), "a run")
    strength = _some_steps(_drawn_lags(strength))
    names = list(product(strength["direction"].values, strength["state"].values))
    fig = figure_of(fig, (7, 1.1 + 2.3 * len(names)))
    axes = fig.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    for ax, (direction, state) in zip(axes, names, strict=True):
        panel = strength.sel(direction=direction, state=state)
        _prepare_horizon(ax, strength["lag"].values, strength.values)
        _draw_steps(ax, panel)
        ax.set_title(f"{panel_name(direction, state)}: {_reach(panel)}", loc="left", fontsize="small")
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
    when = recorded_at(strength.assign_attrs(step=ends))
    add_heading(fig, strength, when, "influence on the last state, relative to lag 0")
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
    if np.isnan(lag) and lags > 1:
        return "NaN"
    return f"{lag:.3g}" if np.isfinite(lag) else f"> {lags - 1}"


def _uses(horizon: xr.Dataset) -> str:
    lags = {name: float(horizon.attrs[name]) for name in _LEVELS}
    if horizon.attrs["timesteps"] == 1:
        return "no horizon: of one timestep nothing is known but lag 0"
    if np.isnan(list(lags.values())).any():
        return "no horizon: the influence is not a finite number"
    total = int(horizon.attrs["timesteps"])
    first, then = (
        f"{lag:.3g} of {total:,}" if np.isfinite(lag) else f"all {total:,}" for lag in lags.values()
    )
    return f"uses {first} steps (to 1/e), {then} (to 1%)"
