"""Running a recurrent layer's cell again on what the layer was given, with every gate in view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from see_rnn_like.cells import cell_spec
from see_rnn_like.engine.taps import LayerCall, tapped_calls
from see_rnn_like.engine.untouched import state_variables, untouched_attributes, untouched_variables
from see_rnn_like.errors import ArgumentError, CaptureError, UnsupportedLayerError
from see_rnn_like.models.layout import RecurrentPart

#: Largest difference to the layer's own output, relative to its largest value, by size of the dtype in bytes.
_TOLERANCE = {2: 2e-2, 4: 1e-5, 8: 1e-12}


@dataclass(frozen=True)
class Replay:
    """Gates and states of one direction, in input order.

    Attributes:
        gates: ``(sample, time, gate, unit)``; NaN at masked timesteps, where the cell does not run.
        states: one ``(sample, time, unit)`` per state, the output `h` first.
    """

    gates: np.ndarray
    states: tuple[np.ndarray, ...]


def replay(model: Any, part: RecurrentPart, x: Any) -> Replay:
    """Runs the model forward in inference mode and replays one recurrent layer in it.

    All gates of all timesteps are one batched product once the outputs are known; what is left of the
    recurrence is element-wise.

    Args:
        model: a built Keras 3 model.
        part: one direction of a recurrent layer with a single, known cell.
        x: input tensors in the structure the model takes.

    Raises:
        UnsupportedLayerError: for stacked cells, convolutional cells and unknown ones.
        ArgumentError: if the layer is not called exactly once on this input.
        CaptureError: if the replay does not reproduce the layer's own output.
    """
    (cell, *others) = part.cells
    if others:
        names = ", ".join(type(c).__name__ for c in part.cells)
        raise UnsupportedLayerError(f"{part.rnn.name} stacks {names}; stacked cells cannot be replayed yet")
    spec = cell_spec(cell)
    with untouched_variables(state_variables(model)), untouched_attributes(model._flatten_layers(), []):
        initial = _initial_states(part.rnn)
        with tapped_calls(part.rnn) as calls:
            model(x, training=False)
        if len(calls) != 1:
            raise ArgumentError(f"{part.rnn.name} is called {len(calls)} times in this model; expected once")
        return _replay_call(part, cell, spec, calls[0], initial)


def _replay_call(part: RecurrentPart, cell: Any, spec: Any, call: LayerCall, initial: list[Any]) -> Replay:
    given = part.rnn._call_signature.bind(*call.args, **call.kwargs).arguments
    inputs, mask = tf.convert_to_tensor(given["sequences"]), given.get("mask")
    if inputs.shape.rank != 3:
        raise UnsupportedLayerError(
            f"{part.rnn.name} takes input of shape {tuple(inputs.shape)}; replay needs (sample, time, input)"
        )
    first = given.get("initial_state")
    start = tf.nest.flatten(first) if first is not None else initial
    start = start or part.rnn.get_initial_state(tf.shape(inputs)[0])
    if part.rnn.go_backwards:
        inputs = tf.reverse(inputs, [1])
        mask = None if mask is None else tf.reverse(mask, [1])
    inputs = tf.cast(inputs, cell.compute_dtype)
    start = [tf.cast(state, cell.compute_dtype) for state in start]
    h = _outputs_over_time(part.rnn, inputs, mask, start)
    previous = tf.concat([start[0][:, None], h[:, :-1]], axis=1)
    gates = spec.activate(cell, inputs, previous)
    states = _states_over_time(cell, spec, gates, start, mask)
    _require_same(part.rnn, h, states[0])
    if mask is not None:
        gates = tf.where(mask[:, :, None, None], gates, tf.cast(np.nan, gates.dtype))
    turned = slice(None, None, -1) if part.rnn.go_backwards else slice(None)
    return Replay(gates.numpy()[:, turned], tuple(state.numpy()[:, turned] for state in states))


def _initial_states(rnn: Any) -> list[Any]:
    # A stateful layer starts from what it holds before the call.
    return [tf.identity(v.value) for v in tf.nest.flatten(rnn.states)] if rnn.stateful else []


def _outputs_over_time(rnn: Any, inputs: Any, mask: Any, start: list[Any]) -> Any:
    """The layer's own recurrence with all outputs kept: Keras's RNN on the very same cell."""
    whole = keras.layers.RNN(
        rnn.cell, return_sequences=True, name=f"{rnn.name}_replay", dtype=rnn.dtype_policy
    )
    return whole(inputs, initial_state=start, mask=mask, training=False)


def _states_over_time(cell: Any, spec: Any, gates: Any, start: list[Any], mask: Any) -> list[Any]:
    states, over_time = tuple(start), []
    for step, now in enumerate(tf.unstack(gates, axis=1)):
        new = spec.advance(cell, now, states)
        if mask is not None:
            alive = mask[:, step, None]
            new = tuple(tf.where(alive, a, b) for a, b in zip(new, states, strict=True))
        states = new
        over_time.append(states)
    return [tf.stack(series, axis=1) for series in zip(*over_time, strict=True)]


def _require_same(rnn: Any, own: Any, replayed: Any) -> None:
    scale = tf.reduce_max(tf.abs(own)).numpy()
    error = float(tf.reduce_max(tf.abs(own - replayed)).numpy() / max(scale, 1e-30))
    # Not "error > tolerance": a NaN must not pass for agreement unless both hold the same ones.
    if not error <= _TOLERANCE[own.dtype.size] and not np.array_equal(own, replayed, equal_nan=True):
        raise CaptureError(
            f"the gates of {rnn.name} cannot be replayed: its output differs by {error:.1e} (relative); "
            "does the cell do something its CellSpec does not say?"
        )
