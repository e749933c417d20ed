"""Gates and states over time: what a recurrent layer computes inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from see_rnn_like.cells import CellSpec
from see_rnn_like.engine.recurrence import Replay, recurrent_spec, replay
from see_rnn_like.errors import ArgumentError, UnsupportedLayerError
from see_rnn_like.extract.arrays import to_numpy
from see_rnn_like.extract.batches import read_batch, require_fitting
from see_rnn_like.extract.layers import get_layer
from see_rnn_like.extract.outputs import require_built
from see_rnn_like.models.layout import RecurrentPart, recurrent_parts


def trace(model: Any, _id: Any, x: Any) -> xr.Dataset:
    """Every gate and state of a recurrent layer at every timestep.

    The model runs forward in inference mode, with the cell of the layer computed by its `CellSpec`, which
    tells the gates. Whether that is what the layer computes is checked against the layer's own output, once
    per model in its present form. Nothing of the model changes.

    Args:
        model: a built Keras 3 model.
        _id: the layer: name, part of a name, or index in `model.layers`.
        x: input: arrays, a list or dict of them, or a `tf.data.Dataset` (its first batch).

    Returns:
        Dataset with `gates` ``(sample, time, gate, unit)`` and one variable per state, `h` (the output) and
        for LSTM `c`, ``(sample, time, unit)``. A Bidirectional layer has a leading ``direction``; time is in
        input order in both directions. Gates are NaN at masked timesteps; states are carried over them.
        `attrs`: ``layer``, ``cell``, ``gating``, the gates that go from 0 to 1, and ``keeping``, the one that
        keeps the state (empty if there is none).

    Raises:
        UnknownLayerError: if no layer matches.
        UnsupportedLayerError: if the layer is not recurrent or its cell is stacked, convolutional or unknown.
        CaptureError: if the layer's own output cannot be reproduced.

    Example:
        >>> import keras, numpy as np
        >>> model = keras.Sequential([keras.Input((9, 3)), keras.layers.LSTM(2, name="lstm")])
        >>> traced = trace(model, "lstm", np.ones((4, 9, 3)))
        >>> traced["gates"].sel(gate="forget").sizes
        Frozen({'sample': 4, 'time': 9, 'unit': 2})
    """
    layer, parts, _, inside = replayed(model, _id, x)
    traced = [_labelled(recurrent_spec(part), one) for part, one in zip(parts, inside, strict=True)]
    spec = recurrent_spec(parts[0])
    found = by_direction(parts, traced)
    return found.assign_attrs(
        layer=layer.name, cell=spec.name, gating=list(spec.gating), keeping=spec.keeping or ""
    )


def replayed(model: Any, _id: Any, x: Any) -> tuple[Any, list[RecurrentPart], Any, list[Replay]]:
    """One recurrent layer by its id, its directions, the inputs as tensors, and what happens inside on these.

    Raises:
        UnknownLayerError, UnsupportedLayerError, ArgumentError: as `recurrent_layer`.
        ArgumentError: if the inputs do not fit the model.
        CaptureError: if the layer's own output cannot be reproduced.
    """
    layer, parts = recurrent_layer(model, _id)
    inputs = read_batch(x).x
    require_fitting(model, inputs)
    return layer, parts, inputs, replay(model, parts, inputs)


def recurrent_layer(model: Any, _id: Any) -> tuple[Any, list[RecurrentPart]]:
    """One recurrent layer by its id, and its directions.

    Raises:
        UnknownLayerError: if no layer matches.
        ArgumentError: if the model is not built or several layers match.
        UnsupportedLayerError: if the layer is not recurrent.
    """
    require_built(model)
    layer = get_layer(model, _id)
    if isinstance(layer, list):
        raise ArgumentError(f"expected one recurrent layer; {_id!r} matches {len(layer)}")
    parts = recurrent_parts(layer)
    if not parts:
        raise UnsupportedLayerError(
            f"{layer.name} is a {type(layer).__name__}; gates and states are in LSTM, GRU, SimpleRNN, "
            "RNN(cell) and Bidirectional layers"
        )
    _require_alike(layer, parts)
    return layer, parts


def _require_alike(layer: Any, parts: Sequence[RecurrentPart]) -> None:
    cells = [f"{recurrent_spec(part).name} of {part.rnn.cell.state_size}" for part in parts]
    if len(set(cells)) > 1:
        directions = " and ".join(f"{part.direction} {cell}" for part, cell in zip(parts, cells, strict=True))
        raise UnsupportedLayerError(
            f"the directions of {layer.name} have different cells or states ({directions}), which do not fit "
            "into one array"
        )


def by_direction(parts: Sequence[RecurrentPart], datasets: Sequence[xr.Dataset]) -> xr.Dataset:
    """One Dataset of a layer: a leading ``direction`` if it has two; said if it only runs backwards."""
    if len(datasets) == 1:
        backward = parts[0].direction == "backward"
        return datasets[0].assign_coords(direction="backward") if backward else datasets[0]
    directions = xr.DataArray([part.direction for part in parts], dims="direction", name="direction")
    return xr.concat(datasets, directions)


def _labelled(spec: CellSpec, inside: Replay) -> xr.Dataset:
    gates = to_numpy(inside.gates)
    return xr.Dataset(
        {"gates": (("sample", "time", "gate", "unit"), gates), **states_over_time(spec, inside.states)},
        coords={"gate": list(spec.gates), "time": np.arange(gates.shape[1])},
    )


def states_over_time(spec: CellSpec, states: Sequence[Any]) -> dict[str, Any]:
    """States, or what belongs to them, as variables of a Dataset."""
    dims = ("sample", "time", "unit")
    return {name: (dims, to_numpy(values)) for name, values in zip(spec.states, states, strict=True)}
