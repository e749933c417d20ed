"""Which tensors of a run are drawn, whose they are, and curves of them: what pictures of runs share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure, SubFigure

from see_rnn_like.errors import ArgumentError, one_of
from see_rnn_like.history import History
from see_rnn_like.labels import KINDS, TensorKey
from see_rnn_like.plots.arguments import column_count
from see_rnn_like.plots.curves import Curve, draw_panels, fit_height


def owners_of(run: History) -> dict[TensorKey, str]:
    """Who each recorded tensor belongs to: its layer, with the direction where the layer has two."""
    directions: dict[str, set[str | None]] = {}
    for key in run.infos():
        directions.setdefault(key.layer, set()).add(key.direction)
    two = {layer for layer, found in directions.items() if {"forward", "backward"} <= found}
    return {k: f"{k.layer}/{k.direction}" if k.direction and k.layer in two else k.layer for k in run.infos()}


def selected_keys(
    run: History, keys: str | TensorKey | Iterable[str | TensorKey] | None, kinds: str | Sequence[str] | None
) -> list[TensorKey]:
    """The tensors to draw, in the order of their panels: by kind, then role, then layer.

    Args:
        run: the recorded run.
        keys: keys, in printed form or not; None for all of all layers but the derived ones.
        kinds: only these kinds of them; None for all.

    Raises:
        ArgumentError: for an unknown kind.
        UnknownTensorError: if nothing was recorded under one of `keys`.
    """
    kinds = [kinds] if isinstance(kinds, str) else kinds
    for kind in kinds or ():
        if kind not in KINDS:
            raise one_of("kinds", kind, KINDS)
    if keys is None:
        chosen = [key for key, info in run.infos().items() if key.layer and not info.derived]
    else:
        chosen = [run.info(key).key for key in ([keys] if isinstance(keys, (str, TensorKey)) else keys)]
    chosen = [key for key in dict.fromkeys(chosen) if kinds is None or key.kind in kinds]
    # Backward passes come in reverse; the order of the run as a whole keeps the panels of a kind in line.
    roles = list(dict.fromkeys(key.role for key in run.infos()))
    owners = owners_of(run)
    layers = list(dict.fromkeys(owners.values()))
    return sorted(chosen, key=lambda k: (KINDS.index(k.kind), roles.index(k.role), layers.index(owners[k])))


def draw_curves(
    run: History,
    panels: Mapping[tuple[str, str], Sequence[Curve]],
    ylabel: str,
    columns: int,
    fig: Figure | SubFigure | None,
    guide: float | None = None,
) -> tuple[Figure | SubFigure, np.ndarray]:
    """Draws curves of a run by `draw_panels`, into a figure that fits them if none is given.

    Args:
        run: the recorded run, whose layers keep their colours in all its figures.
        panels: ``(kind, title)`` → curves; a new kind starts a new row.
        ylabel: what the curves show, with its unit.
        columns: panels per row at most.
        fig: where to; None for a new one.
        guide: a value to draw a horizontal line at.

    Returns:
        The figure and its axes ``(panel,)``.

    Raises:
        ArgumentError: if `columns` < 1 or there is nothing to draw.
        ArgumentTypeError: if `columns` is no whole number.
    """
    columns = column_count(columns, max(1, len(panels)))
    if not panels:
        raise ArgumentError(
            "nothing to draw: no recorded tensor is among those asked for; run.keys() lists all"
        )
    if not any(curve.steps.size for curves in panels.values() for curve in curves):
        raise ArgumentError("nothing to draw: no step was recorded of the tensors asked for")
    layers = list(dict.fromkeys(owners_of(run).values()))
    if fig is not None:
        return fig, draw_panels(panels, layers, ylabel, columns, fig, guide)
    widest = min(columns, max(Counter(kind for kind, _ in panels).values()))
    own = plt.figure(figsize=(max(6.0, 3.2 * widest), 4), layout="constrained")
    axes = draw_panels(panels, layers, ylabel, columns, own, guide)
    fit_height(own)
    return own, axes


def with_histogram(table: xr.Dataset, key: TensorKey) -> xr.Dataset:
    """The statistics of one tensor at those steps whose histogram was kept.

    Args:
        table: what `History.stats` returns.
        key: the tensor, for what an error says.

    Raises:
        ArgumentError: if no step or no histogram was recorded.
    """
    if not table.sizes["step"]:
        raise ArgumentError(f"nothing to draw: no step of '{key}' was recorded")
    if "histogram" not in table:
        raise ArgumentError(f"no histogram of '{key}' was recorded, only its sums; see plot_norms")
    finite = table["count"] - table["nan"] - table["inf"]
    # Thinning can take the histogram of a step and leave its sums: such a step is not "no values".
    kept = (table["histogram"].sum("bin") > 0) | (finite == 0)
    return table.isel(step=np.flatnonzero(kept.all([dim for dim in kept.dims if dim != "step"])))
