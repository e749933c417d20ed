"""The weights of recurrent layers, by cell, kernel and gate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

from see_rnn_like import cells
from see_rnn_like.cells import CellSpec
from see_rnn_like.errors import ArgumentError, UnsupportedLayerError
from see_rnn_like.extract.arrays import to_numpy
from see_rnn_like.models import ids
from see_rnn_like.models.layout import recurrent_parts


def get_rnn_weights(
    model: Any, _id: Any, layer: Any = None, as_tensors: bool = False, concat_gates: bool = True
) -> list[Any]:
    """The weights of one recurrent layer.

    Args:
        model: a built Keras 3 model.
        _id: name or index of the layer, as in `get_layer`.
        layer: the layer itself; overrides `_id`.
        as_tensors: return `keras.Variable`s (with ``concat_gates=False`` slices of them) instead of NumPy
            copies.
        concat_gates: True: each weight whole, its gates side by side along the last axis; False: each weight
            as a list with one array per gate, in the order of `CellSpec.gates`.

    Returns:
        ``[kernel, recurrent_kernel, bias]``, without the bias if there is none; for a Bidirectional layer
        the forward ones, then the backward ones; for stacked cells those of each cell in turn, bottom first.

    Raises:
        UnknownLayerError: if the id matches nothing.
        ArgumentError: if it names several layers, or the layer is not built.
        UnsupportedLayerError: if it is not a recurrent layer, or its cell is not registered.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((9, 3)), keras.layers.LSTM(2, name="lstm")])
        >>> [w.shape for w in get_rnn_weights(model, "lstm")]
        [(3, 8), (2, 8), (8,)]
        >>> [[gate.shape for gate in w] for w in get_rnn_weights(model, "lstm", concat_gates=False)]
        [[(3, 2), (3, 2), (3, 2), (3, 2)], [(2, 2), (2, 2), (2, 2), (2, 2)], [(2,), (2,), (2,), (2,)]]
    """
    found = ids.find_layers(model, _id, layer)
    if len(found) != 1:
        raise ArgumentError(f"get_rnn_weights takes one layer; got {', '.join(f.name for f in found)}")
    return [
        _value(spec, role, variable, as_tensors, concat_gates)
        for cell in _cells(found[0].layer)
        for spec, role, variable in _cell_weights(cell)
    ]


def rnn_summary(layer: Any) -> None:
    """Prints the shape of every weight of a recurrent layer, whole and per gate.

    Args:
        layer: a built LSTM, GRU, SimpleRNN, RNN(cell) or ConvLSTM, or a wrapper of one (Bidirectional).

    Raises:
        UnsupportedLayerError: if it is not a recurrent layer, or its cell is not registered.
        ArgumentError: if it is not built.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((9, 3)), keras.layers.SimpleRNN(2, name="rnn")], name="m")
        >>> rnn_summary(model.layers[0])
        m/rnn/simple_rnn_cell/kernel -- shape=(3, 2)
        m/rnn/simple_rnn_cell/recurrent_kernel -- shape=(2, 2)
        m/rnn/simple_rnn_cell/bias -- shape=(2,)
    """
    directions = _parts(layer)
    for part in directions:
        if len(directions) > 1:
            print(f"// {part.direction.upper()} LAYER")  # noqa: T201 a summary is there to be printed
        for cell in part.cells:
            for line in _summary_lines(cell):
                print(line)  # noqa: T201 a summary is there to be printed


def _parts(layer: Any) -> list[Any]:
    parts = recurrent_parts(layer)
    if not parts:
        raise UnsupportedLayerError(
            f"{layer.name!r} is a {type(layer).__name__}, not a recurrent layer; supported are LSTM, GRU, "
            "SimpleRNN, ConvLSTM, RNN(cell) with one or several registered cells, and Bidirectional or "
            "TimeDistributed of these"
            if isinstance(layer, keras.layers.Layer)
            else f"expected a recurrent keras layer; got {layer!r}"
        )
    return parts


def _cells(layer: Any) -> list[Any]:
    return [cell for part in _parts(layer) for cell in part.cells]


def _cell_weights(cell: Any) -> Iterator[tuple[CellSpec, str, Any]]:
    spec = cells.cell_spec(cell)
    if not cell.built:
        raise ArgumentError(f"cell {cell.name!r} has no weights yet; build the model first (call it once)")
    for role in spec.roles:
        variable = getattr(cell, role, None)
        if variable is not None:
            yield spec, role, variable


def _value(spec: CellSpec, role: str, variable: Any, as_tensors: bool, concat_gates: bool) -> Any:
    if as_tensors:
        return variable if concat_gates else keras.ops.split(variable, len(spec.gates), axis=-1)
    values = to_numpy(variable)
    if concat_gates:
        return values
    labelled = spec.split(role, values)
    return [labelled.sel(gate=gate).values for gate in spec.gates]


def _summary_lines(cell: Any) -> Iterator[str]:
    known: set[int] = set()
    for spec, role, variable in _cell_weights(cell):
        known.add(id(variable))
        yield f"{variable.path} -- shape={tuple(variable.shape)}"
        *before, _, units = spec.split_shape(role, tuple(variable.shape))
        for gate in spec.gates if len(spec.gates) > 1 else ():
            yield f"{role}_{gate} -- shape={(*before, units)}"
    for variable in cell.weights:
        if id(variable) not in known:
            yield f"{variable.path} -- shape={tuple(variable.shape)}"
