"""How a network develops while it trains: gradients through time, activations, weights.

Every function takes a `History` (a live run or one read from a file) and returns ``(figure, axes)``.
None of them shows or saves anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import FuncNorm, ListedColormap, LogNorm
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullLocator

from see_rnn_like.errors import ArgumentError, UnknownLayerError, one_of
from see_rnn_like.history import History, TensorInfo, require_history
from see_rnn_like.labels import DIRECTIONS, TensorKey
from see_rnn_like.plots.arguments import column_count
from see_rnn_like.plots.curves import Curve, short_name, size_locator
from see_rnn_like.plots.decay import decay_share, penalty_share, whole_sizes
from see_rnn_like.plots.distribution import draw_distribution, value_axis
from see_rnn_like.plots.grid import whole_locator
from see_rnn_like.plots.probed import norm_keys, state_of
from see_rnn_like.plots.recorded import draw_curves, owners_of, selected_keys, with_histogram
from see_rnn_like.plots.steps import (
    BAD,
    bad_text,
    cell_edges,
    literal,
    mark_bad_steps,
    power_text,
    scale_steps,
)

__all__ = ["plot_activations_over_training", "plot_gradient_flow", "plot_weight_norms"]

#: States of Keras's own cells, which come first; those of other cells follow as they were recorded.
_STATES = ("h", "c")
_TOTAL, _LOCAL = "total, through time", "leaves out the recurrent path"

#: Colour of a gradient of exactly zero: in neither viridis nor the colour of NaN.
_ZERO = "#b8b8b8"

_DIRECTIONS = (None, *DIRECTIONS)

_WEIGHT_ROWS = {
    "weight": ("{} · size", "L2 norm"),
    "decay": ("{} · weight decay", "share of update"),
    "penalty": ("{} · L2 penalty", "share of loss"),
}


def plot_gradient_flow(
    run: History,
    layer: str | None = None,
    *,
    kinds: str | Sequence[str] | None = None,
    columns: int | None = None,
    fig: Figure | SubFigure | None = None,
) -> tuple[Figure | SubFigure, np.ndarray]:
    """Draws how far the gradient reaches back in time, over training: ‖dL/dh_t‖ over timestep and step.

    A row per layer and direction, a panel per kind of gradient; timesteps go up, training steps to the
    right, colour is the L2 norm over units (root mean square over samples) on a logarithmic scale that the
    panels of a layer share. A gradient that vanishes is dark where the timesteps are far from the loss.

    There are two kinds of gradients, and they answer different questions. dL/dh and dL/dc are *total*: they
    count every way from the state to the loss, that through later timesteps included (backpropagation
    through time). dL/d(output) *leaves out the recurrent path*: where only the last timestep is used, it is
    zero at all others, and says nothing about vanishing. The norm of dL/d(output) is that recorded on the
    probe batch; where there is none, it is computed from the values of ``output:gradient`` of the training
    batch, and the panel says so.

    Exact zeros are grey, NaN and Inf red, with a mark above the step; timesteps that are masked in every
    sample are empty. Steps that crowd at the start (`log_spaced`) are drawn on a logarithmic axis, which
    then says so. The timesteps of a backward layer are those of the input, so its first timestep comes last.

    Args:
        run: the recorded run.
        layer: path of one layer; None for all that have state gradients, in a run without any of those
            for all that have gradients of an output over time.
        kinds: only these of ``"h"``, ``"c"``, other states by their names, and ``"output"``; None for all.
        columns: panels per row at most; None for a row per layer and direction.
        fig: figure to draw into, best one with ``layout="constrained"``; None for a new one.

    Returns:
        The figure and its axes ``(panel,)``, row by row.

    Raises:
        ArgumentError: if no gradient over time was recorded, for an unknown kind, or `columns` < 1.
        ArgumentTypeError: if `run` is no run, or `columns` no whole number.
        UnknownLayerError: if `layer` is none of those with gradients over time.

    Example:
        >>> fig, axes = plot_gradient_flow(run, "lstm")  # doctest: +SKIP

    References:
        Bengio, Simard & Frasconi 1994, "Learning long-term dependencies with gradient descent is difficult";
        Pascanu, Mikolov & Bengio 2013, "On the difficulty of training recurrent neural networks", section 2.
    """
    require_history(run)
    flows = _flows(run, layer, kinds)
    cells = _flow_cells(flows, columns)
    rows, wide = (1 + max(places) for places in zip(*cells, strict=True))
    if fig is None:
        fig = plt.figure(figsize=(max(7.0, 1 + 3.3 * wide), 0.9 + 1.75 * rows), layout="constrained")
    grid = fig.add_gridspec(rows, wide)
    axes = np.array([fig.add_subplot(grid[cell]) for cell in cells], dtype=object)
    for name in dict.fromkeys(flow.layer for flow in flows):
        own = [(ax, flow) for ax, flow in zip(axes, flows, strict=True) if flow.layer == name]
        norm = _shared_norm([flow for _, flow in own])
        meshes = [_draw_flow(ax, flow, norm) for ax, flow in own]
        if any(flow.sizes.count() for _, flow in own):
            _color_bar(fig, meshes[0], [ax for ax, _ in own])
    first = [flow.owner not in [before.owner for before in flows[:i]] for i, flow in enumerate(flows)]
    for ax, flow, names_row in zip(axes, flows, first, strict=True):
        owner = f"{literal(short_name(flow.owner))} · " if names_row else ""
        ax.set_title(f"{owner}{_flow_name(flow.kind)}\n{flow.note}", loc="left", fontsize="small")
    _label_grid(axes, cells)
    _flow_legend(fig, flows)
    return fig, axes


def plot_activations_over_training(
    run: History,
    layers: str | Iterable[str] | None = None,
    *,
    fig: Figure | SubFigure | None = None,
) -> tuple[Figure | SubFigure, np.ndarray]:
    """Draws how the activations of every layer are distributed, over training.

    A row per layer and direction: its output, and its states (h, c) where they were recorded. Each panel
    is that of `plot_histograms`: values up on a signed logarithmic axis of its own with the exact zeros in
    the middle, steps to the right. Colour is the share of the step's finite values, log(1 + 1000 · share),
    on a scale that all panels have in common, so that layers of different sizes compare.

    In a healthy layer the values start near zero and spread out as training goes on. In one that collapses
    they draw together towards zero, and the row of zeros lights up: its units pass on no gradient. A tanh
    layer that saturates gathers in the rows next to ±1. A first layer that does not change at all is one
    that does not learn. (After "Getting Inside a Neural Network", which shows both with fastai's hooks.)

    Args:
        run: the recorded run.
        layers: paths of layers; None for all.
        fig: figure to draw into, best one with ``layout="constrained"``; None for a new one.

    Returns:
        The figure and its axes ``(panel,)``, row by row.

    Raises:
        ArgumentError: if no activation was recorded with its histogram.
        ArgumentTypeError: if `run` is no run.
        UnknownLayerError: if nothing of one of `layers` was recorded.

    Example:
        >>> fig, axes = plot_activations_over_training(run, ["lstm", "lstm_1"])  # doctest: +SKIP
    """
    require_history(run)
    tables = _activation_tables(run, [layers] if isinstance(layers, str) else layers)
    owners = owners_of(run)
    rows = list(dict.fromkeys(owners[key] for key in tables))
    columns = [role for role in _activation_roles(tables) if any(key.role == role for key in tables)]
    if fig is None:
        size = (max(7.0, 1 + 2.9 * len(columns)), 0.9 + 1.6 * len(rows))
        fig = plt.figure(figsize=size, layout="constrained")
    grid = fig.add_gridspec(len(rows), len(columns))
    cells = [(rows.index(owners[key]), columns.index(key.role)) for key in tables]
    axes = np.array([fig.add_subplot(grid[cell]) for cell in cells], dtype=object)
    for ax, (key, table) in zip(axes, tables.items(), strict=True):
        shares = _as_shares(table)
        mesh = draw_distribution(ax, shares, value_axis(shares["histogram"].values[None]), _SHARE_NORM)
        _entitle(ax, f"{short_name(owners[key])} · {key.role}", table)
    bar = fig.colorbar(mesh, ax=list(axes), aspect=10 + 10 * len(rows), pad=0.02, label="share of values")
    bar.set_ticks([0, 0.001, 0.01, 0.1, 1], labels=["0", "0.1 %", "1 %", "10 %", "100 %"])
    _label_grid(axes, cells, ylabel="")
    return fig, axes


def plot_weight_norms(
    run: History,
    keys: str | TensorKey | Iterable[str | TensorKey] | None = None,
    *,
    fig: Figure | SubFigure | None = None,
) -> tuple[Figure | SubFigure, np.ndarray]:
    """Draws the size of the weights over training, and the part that weight decay has in it.

    The first row is the L2 norm ‖w‖, a panel per role, a line per layer (`plot_norms` draws it per gate).
    Below it, where the run tells them:

    - *weight decay* of the optimizer, as a share of the update: lr · weight_decay · ‖w‖ / ‖Δw‖. Near 1 the
      step along the gradient does little but hold the decay; it can exceed 1, as the two may cancel.
    - the *L2 penalty* of a layer's regularizer, as a share of the loss: l2 · ‖w‖² / loss. The loss is that
      of the training batch with all penalties, before the update, as are the weights.

    A share is drawn only where it follows from what was recorded. The decay needs ``"updates"`` among what
    was captured and one of Keras's optimizers (but not Muon, whose decay depends on the weight); it is not
    drawn before the last of several fits, since a run describes the last one. What a run does not tell are
    weights that ``exclude_from_weight_decay`` spares; theirs is the share they would have. The penalty
    needs a model whose layers Keras can describe (no subclassed one), and is left out for L1 and L1L2 with
    both parts, for norms do not tell Σ|w|.

    Args:
        run: the recorded run.
        keys: weights to draw, as keys or in printed form; None for all.
        fig: figure to draw into, best one with ``layout="constrained"``; None for a new one.

    Returns:
        The figure and its axes ``(panel,)``: norms, then decay, then penalties.

    Raises:
        ArgumentError: if no weight is among what was recorded.
        ArgumentTypeError: if `run` is no run.
        UnknownTensorError: if nothing was recorded under one of `keys`.

    Example:
        >>> fig, axes = plot_weight_norms(run)  # doctest: +SKIP

    References:
        Loshchilov & Hutter 2019, "Decoupled Weight Decay Regularization", Algorithm 2 (and
        ``keras.optimizers.Optimizer``, which applies it before the step); Krogh & Hertz 1991, "A Simple
        Weight Decay Can Improve Generalization" for the L2 penalty.
    """
    require_history(run)
    weights = selected_keys(run, keys, "weight")
    if not weights:
        raise ArgumentError(
            'no weights to draw: none are recorded among those asked for; record with capture=("weights", '
            '"updates", ...)'
        )
    owners = owners_of(run)
    panels: dict[tuple[str, str], list[Curve]] = {}
    for kind, key, table in _weight_tables(run, weights):
        curve = Curve(owners[key], None, table["step"].values, table["size"].values, table["bad"].values)
        panels.setdefault((kind, _WEIGHT_ROWS[kind][0].format(key.role)), []).append(curve)
    fig, axes = draw_curves(run, panels, "", 4, fig)
    for ax, (kind, _) in zip(axes, panels, strict=True):
        if ax.get_subplotspec().colspan.start == 0:
            ax.set_ylabel(_WEIGHT_ROWS[kind][1])
    return fig, axes


@dataclass(frozen=True)
class _Flow:
    """One panel of `plot_gradient_flow`.

    Attributes:
        layer: path of the layer.
        owner: the layer, with its direction if it has two.
        kind: the state, or ``output``.
        note: what kind of gradient it is and what batch it is of.
        steps: recorded steps ``(step,)``.
        norms: ``(step, time)``, masked where a step has fewer timesteps than others.
    """

    layer: str
    owner: str
    kind: str
    note: str
    steps: np.ndarray
    norms: np.ma.MaskedArray

    @property
    def bad(self) -> np.ndarray:
        """Where it is NaN or Inf ``(step, time)``."""
        return (~np.isfinite(self.norms)).filled(False)

    @property
    def zero(self) -> np.ndarray:
        """Where it is exactly zero ``(step, time)``."""
        return (self.norms == 0).filled(False)

    @property
    def sizes(self) -> np.ma.MaskedArray:
        """What a logarithmic scale can show ``(step, time)``, the rest masked."""
        return np.ma.masked_where(self.bad | self.zero, self.norms)


def _flows(run: History, layer: str | None, kinds: str | Sequence[str] | None) -> list[_Flow]:
    keys = _flow_keys(run)
    known = _flow_kinds(map(state_of, keys))
    wanted = [kinds] if isinstance(kinds, str) else list(kinds or known)
    for kind in wanted:
        if kind not in known:
            raise one_of("kinds", kind, known)
    owners = owners_of(run)
    chosen = [key for key in keys if (layer is None or key.layer == layer) and state_of(key) in wanted]
    flows = [flow for key in chosen if (flow := _flow(run, run.info(key), owners[key]))]
    if layer is not None and keys and not any(key.layer == layer for key in keys):
        raise _no_such_layer(layer, keys)
    if not flows:
        raise ArgumentError(
            f"no gradient over time ({', '.join(map(_flow_name, wanted))}) was recorded to draw: "
            'record with RNNMonitor(capture=("state_gradients", ...), probe=(x, y)), or that of the output '
            'alone with capture=("output_gradients", ...) and level="full"'
        )
    names = list(dict.fromkeys(owners.values()))
    return sorted(flows, key=lambda flow: (names.index(flow.owner), known.index(flow.kind)))


def _flow_kinds(recorded: Iterable[str]) -> list[str]:
    """Kinds of gradients in the order of their columns, the output last."""
    return [*dict.fromkeys(kind for kind in (*_STATES, *recorded) if kind != "output"), "output"]


def _flow_name(kind: str) -> str:
    return literal(f"dL/d{kind}" if len(kind) == 1 else f"dL/d({kind})")


def _flow_cells(flows: Sequence[_Flow], columns: int | None) -> list[tuple[int, int]]:
    """Rows and columns of panels: those of an owner beside each other, on as many lines as they need."""
    owners = list(dict.fromkeys(flow.owner for flow in flows))
    found = {flow.kind for flow in flows}
    kinds = [kind for kind in _flow_kinds(flow.kind for flow in flows) if kind in found]
    columns = column_count(columns, len(kinds))
    lines = -(-len(kinds) // columns)
    places = [divmod(kinds.index(flow.kind), columns) for flow in flows]
    return [
        (owners.index(flow.owner) * lines + line, column)
        for flow, (line, column) in zip(flows, places, strict=True)
    ]


def _flow_keys(run: History) -> list[TensorKey]:
    """Keys of what can be drawn: recorded norms, and outputs over time of layers that lack one."""
    norms = norm_keys(run)
    states = {key.layer for key in norms}
    done = {(key.layer, key.role) for key in norms}
    outputs = [
        key
        for key, info in run.infos().items()
        if (key.kind, key.role) == ("gradient", "output")
        and info.dims == ("sample", "time", "unit")
        and (key.layer, "output_norm") not in done
        and (not states or key.layer in states)
    ]
    return norms + outputs


def _flow(run: History, info: TensorInfo, owner: str) -> _Flow | None:
    """What one panel shows; None if no values were kept."""
    key, kind = info.key, state_of(info.key)
    recorded = info.derived
    # One step at a time: values of a whole output are large.
    pairs = [pair for step in run.steps for pair in run.load(key, "value", [step])]
    if not pairs:
        return None
    norms = [array if recorded else _norm_over_time(array) for _, array in pairs]
    table = _side_by_side(norms)
    # NaN there says that every sample is masked, and no more.
    masked = np.isin(np.arange(table.shape[1]), info.attrs.get("masked", []))
    table[np.isnan(table).filled(False) & masked] = np.ma.masked
    batch = info.attrs.get("from", "probe batch" if recorded else "training batch")
    note = f"{_LOCAL if kind == 'output' else _TOTAL}; {batch}"
    return _Flow(
        key.layer,
        owner,
        kind,
        note if recorded else f"{note}, from output:gradient",
        np.array([step for step, _ in pairs]),
        table,
    )


def _norm_over_time(gradient: np.ndarray) -> np.ndarray:
    """L2 norm over units, root mean square over samples: ``(sample, time, unit)`` → ``(time,)``."""
    return np.sqrt(np.square(gradient.astype("float64")).sum(2).mean(0))


def _side_by_side(rows: Sequence[np.ndarray]) -> np.ma.MaskedArray:
    """Rows of perhaps different lengths as one array, masked where a row has ended."""
    table = np.ma.masked_all((len(rows), max(map(len, rows))), "float64")
    for place, row in zip(range(len(rows)), rows, strict=True):
        table[place, : len(row)] = row
    return table


def _no_such_layer(layer: object, keys: Iterable[TensorKey]) -> UnknownLayerError:
    names = ", ".join(dict.fromkeys(key.layer for key in keys))
    return UnknownLayerError(f"no layer matches {layer!r}; layers with what this draws are: {names}")


def _shared_norm(flows: Sequence[_Flow]) -> LogNorm:
    """Colour scale from the smallest to the largest norm of all that is not zero, NaN or Inf."""
    sizes = np.concatenate([flow.sizes.compressed() for flow in flows])
    low, high = (sizes.min(), sizes.max()) if sizes.size else (1.0, 1.0)
    # At least a factor of two, so that the rounding noise of a constant does not fill the scale.
    wide = max(1.0, np.sqrt(2 * low / high))
    return LogNorm(low / wide, high * wide)


def _draw_flow(ax: Axes, flow: _Flow, norm: LogNorm) -> QuadMesh:
    scale_steps(ax, flow.steps)
    timesteps = flow.norms.shape[1]
    edges = cell_edges(ax, flow.steps), np.arange(timesteps + 1) - 0.5
    # Borders of their own colour keep cells visible that are smaller than a pixel: one timestep of 500.
    style: dict[str, Any] = {"rasterized": True, "edgecolors": "face", "linewidth": 0.6}
    for name, where, colour, above in (("exactly 0", flow.zero, _ZERO, 0), ("NaN or Inf", flow.bad, BAD, 2)):
        if where.any():
            only = np.ma.masked_where(~where, where).T
            ax.pcolormesh(*edges, only, cmap=ListedColormap([colour]), zorder=above, label=name, **style)
    mesh = ax.pcolormesh(*edges, flow.sizes.T, cmap="viridis", norm=norm, zorder=1, label="L2 norm", **style)
    mark_bad_steps(ax, flow.steps[flow.bad.any(1)])
    # A little room, or the frame of the axes covers the last of many timesteps.
    ax.set_ylim(-0.5 - 0.02 * timesteps, timesteps - 0.5 + 0.02 * timesteps)
    ax.yaxis.set_major_locator(whole_locator(4))
    return mesh


def _color_bar(fig: Figure | SubFigure, mesh: QuadMesh, axes: Sequence[Axes]) -> None:
    bar = fig.colorbar(mesh, ax=list(axes), pad=0.02, label="L2 norm of units,\nrms of samples")
    low, high = np.log10(mesh.get_clim())
    bar.ax.yaxis.set_major_locator(size_locator(high - low))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.ax.yaxis.set_major_formatter(FuncFormatter(power_text))


def _label_grid(axes: np.ndarray, cells: Sequence[tuple[int, int]], ylabel: str = "timestep") -> None:
    """Names the axes on the edge of a grid, and takes step numbers from where others stand below."""
    for ax, (row, column) in zip(axes, cells, strict=True):
        if (row + 1, column) in cells:
            ax.tick_params(labelbottom=False)
        else:
            ax.set_xlabel("step" if ax.get_xscale() == "linear" else "step (logarithmic)")
        if not any((row, before) in cells for before in range(column)):
            ax.set_ylabel(ylabel)


def _flow_legend(fig: Figure | SubFigure, flows: Sequence[_Flow]) -> None:
    found = [
        Patch(color=colour, label=name)
        for name, colour, there in (
            ("exactly 0", _ZERO, any(flow.zero.any() for flow in flows)),
            ("NaN or Inf", BAD, any(flow.bad.any() for flow in flows)),
        )
        if there
    ]
    if found:
        fig.legend(handles=found, loc="outside lower left", ncols=2, frameon=False, fontsize="small")


def _activation_tables(run: History, layers: Iterable[str] | None) -> dict[TensorKey, xr.Dataset]:
    """Statistics with their histograms of what is drawn, in the order of the layers."""
    keys = [key for key, info in run.infos().items() if is_activation(info)]
    roles = _activation_roles(keys)
    wanted = None if layers is None else list(layers)
    for layer in wanted or () if keys else ():
        if not any(key.layer == layer for key in keys):
            raise _no_such_layer(layer, keys)
    names = list(dict.fromkeys(key.layer for key in keys))
    chosen = sorted(
        (key for key in keys if wanted is None or key.layer in wanted),
        key=lambda key: (
            names.index(key.layer),
            _DIRECTIONS.index(key.direction),
            roles.index(key.role),
        ),
    )
    tables = {key: table for key in chosen if "histogram" in (table := run.stats(key))}
    if not tables:
        raise ArgumentError(
            'no activations to draw: record with RNNMonitor(capture=("outputs", ...)); capture=("states", '
            "...) with probe=(x, y) adds h and c"
        )
    return {key: with_histogram(table, key) for key, table in tables.items()}


def is_activation(info: TensorInfo) -> bool:
    """Whether `plot_activations_over_training` draws it: the output of a layer, or a state."""
    return info.is_state or (info.key.kind, info.key.role) == ("value", "output")


def _activation_roles(keys: Iterable[TensorKey]) -> list[str]:
    """Roles in the order of their columns, the output first."""
    return list(dict.fromkeys(["output", *_STATES, *(key.role for key in keys)]))


def _as_shares(table: xr.Dataset) -> xr.Dataset:
    """The table with the share of each step's finite values in place of the counts of its histogram."""
    counts = table["histogram"]
    return table.assign(histogram=counts / np.maximum(counts.sum("bin"), 1))


def _log_share(share: Any) -> Any:
    return np.log1p(1000 * share)


def _share(brightness: Any) -> Any:
    return np.expm1(brightness) / 1000


#: Colour scale of shares: one value in a thousand is seen, none at all has the darkest colour.
_SHARE_NORM = FuncNorm((_log_share, _share), vmin=0, vmax=1)


def _entitle(ax: Axes, name: str, table: xr.Dataset) -> None:
    note = bad_text(table["step"].values, table["nan"], table["inf"])
    batch = table.attrs.get("from")
    named = literal(f"{name}, {batch}" if batch else name)
    title = ax.set_title("\n".join(filter(None, [named, note])), loc="left", fontsize="small")
    if note:
        title.set(color=BAD)


def _weight_tables(run: History, weights: Sequence[TensorKey]) -> Iterator[tuple[str, TensorKey, xr.Dataset]]:
    """Row, key and curve (``size``, ``bad`` over ``step``) of all that `plot_weight_norms` draws."""
    for key in weights:
        yield "weight", key, whole_sizes(run, key).rename(norm="size")
    for kind, share in (("decay", decay_share), ("penalty", penalty_share)):
        for key in weights:
            if (table := share(run, key)) is not None:
                yield kind, key, table.rename(share="size")
