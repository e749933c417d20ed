"""The recurrence of a layer from inside: gates and states, and what later timesteps owe to earlier ones.

The layer's own loop over time does the work, within the model's own forward pass; see `loops`.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import weakref
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from see_rnn_like.cells import CellSpec, cell_spec
from see_rnn_like.engine import programs
from see_rnn_like.engine.loops import (
    Perturbed,
    Unfolded,
    carried,
    only_run,
    perturbed_loops,
    recorded_loops,
    unfolded_loops,
)
from see_rnn_like.engine.losses import compiled_loss, forward, scaled, unscaled
from see_rnn_like.engine.programs import Request, optimizer_of
from see_rnn_like.errors import ArgumentTypeError, CaptureError, UnsupportedLayerError
from see_rnn_like.models.layout import RecurrentPart

#: Largest difference to the layer's own output, relative to its largest value, by size of the dtype in bytes.
_TOLERANCE = {2: 2e-2, 4: 1e-5, 8: 1e-12}


_Tensors = dict[str, Any]


@dataclass(frozen=True)
class Replay:
    """Gates and states of one direction, in input order.

    Attributes:
        gates: ``(sample, time, gate, unit)``; NaN at masked timesteps, where the cell does not run.
        states: one ``(sample, time, unit)`` per state, the output `h` first; carried over masked timesteps.
        alive: ``(sample, time)``, False where masked; None without a mask.
    """

    gates: Any
    states: tuple[Any, ...]
    alive: Any


@dataclass(frozen=True)
class StateGradients:
    """Derivatives of a number by the states of one direction, in input order.

    Attributes:
        states: one ``(sample, time, unit)`` per state; at masked timesteps, where a state is carried, that of
            the timestep it is carried from.
        output: by the output sequence alone, without the path through later timesteps, ``(sample, time,
            unit)``; None if the layer returns its last output only.
        alive: as in `Replay`.
    """

    states: tuple[Any, ...]
    output: Any
    alive: Any


def recurrent_spec(part: RecurrentPart) -> CellSpec:
    """The spec of the one cell a layer runs.

    Raises:
        UnsupportedLayerError: for stacked cells and unknown ones.
    """
    if len(part.cells) > 1:
        names = ", ".join(type(cell).__name__ for cell in part.cells)
        raise UnsupportedLayerError(
            f"{part.rnn.name} stacks {names}; the inside of stacked cells cannot be shown: give each cell an "
            "RNN layer of its own"
        )
    return cell_spec(part.cells[0])


def replay(model: Any, parts: Sequence[RecurrentPart], x: Any) -> list[Replay]:
    """Gates and states of recurrent layers in one forward pass of the model, in inference mode.

    The loop runs by the specs of the cells. Whether these say what the cells do is checked against the
    layers' own loops, once per model in its present form.

    Args:
        model: a built Keras 3 model.
        parts: directions of recurrent layers with a single, known cell.
        x: input tensors in the structure the model takes.

    Raises:
        UnsupportedLayerError: for stacked, convolutional and unknown cells.
        ArgumentError: if a layer is not called exactly once on this input.
        CaptureError: if the replay does not reproduce a layer's own output.
    """
    rnns = _checked(parts)
    programs.once(model, ("verified", *map(id, rnns)), functools.partial(_verify, model, rnns, x))
    found = programs.run(model, _ReplayRequest(rnns), x)
    return [Replay(inside["gates"], tuple(inside["states"]), inside["alive"]) for inside in found]


def state_gradients(
    model: Any,
    parts: Sequence[RecurrentPart],
    x: Any,
    y: Any,
    sample_weight: Any,
    loss: Callable[[Any], Any] | None,
) -> list[StateGradients]:
    """Total derivatives of a loss by every state at every timestep, in one forward and one backward pass.

    Args:
        model: a built Keras 3 model; compiled unless `loss` is given.
        parts: directions of recurrent layers with a single, known cell.
        x: input tensors in the structure the model takes.
        y: target tensors, or None.
        sample_weight: weights of the samples, or None.
        loss: function of the model's outputs, summed; None for the compiled loss.

    Raises:
        UnsupportedLayerError, ArgumentError: as `replay`; also if the outputs do not depend on a layer.
    """
    found = programs.run(model, _StateGradientsRequest(_checked(parts), loss), x, y, sample_weight)
    return [StateGradients(tuple(one["states"]), one["output"], one["alive"]) for one in found]


def last_state_gradients(
    model: Any, parts: Sequence[RecurrentPart], x: Any, probes: Sequence[Sequence[np.ndarray]]
) -> list[tuple[list[Any], Any]]:
    """Products of the Jacobians of the last state by earlier ones with vectors: ``vᵀ · ∂s_T/∂s_t``.

    Args:
        model: a built Keras 3 model.
        parts: directions of recurrent layers.
        x: input tensors in the structure the model takes.
        probes: per part one vector ``(sample, unit)`` per state.

    Returns:
        Per part one ``(sample, time, unit)`` per state, in processing order and without carrying over masked
        timesteps (zero there); and where the cell ran, ``(sample, time)`` in the same order, None without a
        mask.

    Raises:
        UnsupportedLayerError, ArgumentError: as `replay`.
    """
    vectors = [list(one) for one in probes]
    return programs.run(model, _LastStateRequest(_checked(parts)), x, vectors)


def local_expansion(model: Any, part: RecurrentPart, x: Any, basis: np.ndarray) -> tuple[Any, Any]:
    """How the recurrence stretches an orthonormal basis of its state, step by step.

    At every timestep the basis is multiplied by the Jacobian of the step at the state the layer is in and
    orthonormalised again by QR (Benettin et al. 1980; for RNNs Engelken, Wolf & Abbott 2023, section II).

    Args:
        model: a built Keras 3 model.
        part: one direction of a recurrent layer.
        x: input tensors in the structure the model takes.
        basis: ``(state · unit, direction)`` with orthonormal columns; states stand one after the other.

    Returns:
        ``ln |diag R|`` of every step, float64 ``(time, sample, direction)`` in processing order, zero at
        masked timesteps; and where the cell ran, as `last_state_gradients`.

    Raises:
        UnsupportedLayerError, ArgumentError: as `replay`.
    """
    return programs.run(model, _ExpansionRequest(_checked([part]), basis.shape[1]), x, basis)


# -- requests -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _LayersRequest(Request):
    """Something of some recurrent layers."""

    rnns: tuple[Any, ...]

    def key(self) -> tuple[Hashable, ...]:
        return (self.name, *map(id, self.rnns))

    def weakly(self) -> Callable[[], Request]:
        make, rnns = type(self), _weak(self.rnns)
        return lambda: make(rnns())


class _ReplayRequest(_LayersRequest):
    name = "replay"

    def compute(self, model: Any, kept: list[Any], x: Any) -> list[_Tensors]:
        with unfolded_loops(self.rnns) as loops:
            forward(model, x, training=False)
        return [_inside(only_run(loops, rnn)) for rnn in self.rnns]


class _OwnRequest(_LayersRequest):
    name = "own_outputs"

    def compute(self, model: Any, kept: list[Any], x: Any) -> list[Any]:
        with recorded_loops(self.rnns) as loops:
            forward(model, x, training=False)
        return [_turned(rnn, only_run(loops, rnn)) for rnn in self.rnns]


@dataclass(frozen=True)
class _StateGradientsRequest(_LayersRequest):
    loss: Callable[[Any], Any] | None
    name = "state_gradients"

    def key(self) -> tuple[Hashable, ...]:
        return (*super().key(), _weak_function(self.loss))

    def weakly(self) -> Callable[[], _StateGradientsRequest]:
        rnns, loss = _weak(self.rnns), _weak_function(self.loss)
        return lambda: _StateGradientsRequest(rnns(), None if loss is None else loss())

    def compute(self, model: Any, kept: list[Any], x: Any, y: Any, sample_weight: Any) -> list[_Tensors]:
        with tf.GradientTape() as tape:
            with perturbed_loops(self.rnns, tape) as loops:
                y_pred = forward(model, x, training=False)
            if self.loss is None:
                value = compiled_loss(model, kept, x, y, y_pred, sample_weight, training=False)
            else:
                value = tf.reduce_sum(_numbers(self.loss(y_pred)))
            # Scaled as in training: in float16 what is small would vanish on its way back.
            value, scale = scaled(optimizer_of(model), value)
        moved = [only_run(loops, rnn) for rnn in self.rnns]
        sources = [(one.start, one.states, one.output) for one in moved]
        gradients = tape.gradient(value, sources, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return [_in_input_order(one, found, scale) for one, found in zip(moved, gradients, strict=True)]


class _LastStateRequest(_LayersRequest):
    name = "last_state"

    def compute(self, model: Any, kept: list[Any], x: Any, probes: list[Any]) -> list[tuple[list[Any], Any]]:
        with tf.GradientTape(persistent=True) as tape, perturbed_loops(self.rnns, tape) as loops:
            forward(model, x, training=False)
        moved = [only_run(loops, rnn) for rnn in self.rnns]
        return [
            (_pulled_back(tape, one, vectors), one.mask) for one, vectors in zip(moved, probes, strict=True)
        ]


@dataclass(frozen=True)
class _ExpansionRequest(_LayersRequest):
    directions: int
    name = "expansion"

    def key(self) -> tuple[Hashable, ...]:
        return (*super().key(), self.directions)

    def weakly(self) -> Callable[[], _ExpansionRequest]:
        rnns, directions = _weak(self.rnns), self.directions
        return lambda: _ExpansionRequest(rnns(), directions)

    def compute(self, model: Any, kept: list[Any], x: Any, basis: Any) -> tuple[Any, Any]:
        with unfolded_loops(self.rnns) as loops:
            forward(model, x, training=False)
        loop = only_run(loops, self.rnns[0])
        previous = [
            tf.concat([start[:, None], series[:, :-1]], axis=1)
            for start, series in zip(loop.start, loop.states, strict=True)
        ]
        return _stretch(loop.rnn.cell, loop.inputs, previous, loop.mask, basis), loop.mask


def _checked(parts: Sequence[RecurrentPart]) -> tuple[Any, ...]:
    for part in parts:
        recurrent_spec(part)
    return tuple(part.rnn for part in parts)


def _numbers(returned: Any) -> Any:
    try:
        tensor = tf.convert_to_tensor(returned)
    except (TypeError, ValueError):
        tensor = tf.constant("")
    if not tensor.dtype.is_floating:
        raise ArgumentTypeError(f"loss must return floating-point numbers; it returned {returned!r}")
    return tensor


def _weak_function(function: Callable[[Any], Any] | None) -> weakref.ref[Any] | None:
    # A loss may know the model, which the cache of compiled requests must not keep alive.
    if function is None:
        return None
    return weakref.WeakMethod(function) if inspect.ismethod(function) else weakref.ref(function)


def _weak(rnns: tuple[Any, ...]) -> Callable[[], tuple[Any, ...]]:
    references = [weakref.ref(rnn) for rnn in rnns]
    return lambda: tuple(reference() for reference in references)


# -- traced: what becomes of it -----------------------------------------------------------------


def _inside(loop: Unfolded) -> _Tensors:
    """Gates and states of one run in input order."""
    gates = loop.gates
    if loop.mask is not None:
        gates = tf.where(loop.mask[:, :, None, None], gates, tf.cast(np.nan, gates.dtype))
    return {
        "gates": _turned(loop.rnn, gates),
        "states": [_turned(loop.rnn, state) for state in loop.states],
        "alive": None if loop.mask is None else _turned(loop.rnn, loop.mask),
    }


def _verify(model: Any, rnns: tuple[Any, ...], x: Any) -> None:
    with _full_precision():
        own = programs.run(model, _OwnRequest(rnns), x)
        told = programs.run(model, _ReplayRequest(rnns), x)
    for rnn, by_itself, by_spec in zip(rnns, own, told, strict=True):
        _require_same(rnn, by_itself.numpy(), by_spec["states"][0].numpy())


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    """Keeps GPUs from rounding the factors of float32 products to 10 bits (TF32) while the block runs."""
    enabled = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(enabled)


def _require_same(rnn: Any, own: np.ndarray, told: np.ndarray) -> None:
    tolerance = _TOLERANCE[own.dtype.itemsize]
    own, told = own.astype("float64"), told.astype("float64")
    finite = np.isfinite(own) & np.isfinite(told)
    error = np.abs(own[finite] - told[finite]).max(initial=0) / np.abs(own[finite]).max(initial=1e-30)
    if error > tolerance or not np.array_equal(own[~finite], told[~finite], equal_nan=True):
        raise CaptureError(
            f"the gates of {rnn.name} cannot be replayed: its output differs by {error:.1e} (relative); does "
            "the cell do something its CellSpec does not say?"
        )


def _turned(rnn: Any, series: Any) -> Any:
    """From processing order to input order, and back."""
    return tf.reverse(series, [1]) if rnn.go_backwards else series


def _in_input_order(moved: Perturbed, gradients: Any, scale: Any) -> _Tensors:
    start, states, output = tf.nest.map_structure(lambda one: unscaled(one, scale), gradients)
    if not moved.rnn.return_sequences:
        # The output is that of the last timestep at which the cell ran: by all others there is nothing.
        timesteps = tf.shape(states[0])[1]
        ran = tf.ones(tf.shape(states[0])[:2], tf.bool) if moved.mask is None else moved.mask
        last = tf.reduce_max(tf.where(ran, tf.range(timesteps), -1), axis=1)
        output = output[:, None] * tf.one_hot(last, timesteps, dtype=output.dtype)[..., None]
    held = [carried(one, first, moved.mask) for one, first in zip(states, start, strict=True)]
    return {
        "states": [_turned(moved.rnn, one) for one in held],
        "output": _turned(moved.rnn, output),
        "alive": None if moved.mask is None else _turned(moved.rnn, moved.mask),
    }


def _pulled_back(tape: tf.GradientTape, moved: Perturbed, vectors: Sequence[Any]) -> list[Any]:
    zero = tf.UnconnectedGradients.ZERO
    return [
        tape.gradient(last, by, tf.cast(vector, last.dtype), unconnected_gradients=zero)
        for last, by, vector in zip(moved.last, moved.states, vectors, strict=True)
    ]


def _stretch(cell: Any, inputs: Any, previous: Sequence[Any], mask: Any, basis: Any) -> Any:
    """See `local_expansion`."""
    directions = basis.shape[-1]
    samples = tf.shape(inputs)[0]
    sizes = [state.shape[-1] for state in previous]
    alive = tf.ones(tf.shape(inputs)[:2], tf.bool) if mask is None else mask
    first = tf.repeat(tf.cast(basis, tf.float64)[None], samples, axis=0)

    def step(carry: Any, now: Any) -> Any:
        x, states, runs = now
        moved = _moved(cell, x, states, tf.split(carry[0], sizes, axis=1))
        q, r = tf.linalg.qr(tf.concat(moved, axis=1))
        stretch = tf.math.log(tf.abs(tf.linalg.diag_part(r)))
        return (
            tf.where(runs[:, None, None], q, carry[0]),
            tf.where(runs[:, None], stretch, tf.zeros_like(stretch)),
        )

    by_time = (
        tf.transpose(inputs, (1, 0, 2)),
        [tf.transpose(one, (1, 0, 2)) for one in previous],
        tf.transpose(alive),
    )
    zero = tf.zeros((samples, directions), tf.float64)
    return tf.scan(step, by_time, initializer=(first, zero))[1]


def _moved(cell: Any, x: Any, states: Sequence[Any], tangents: Sequence[Any]) -> list[Any]:
    """The Jacobian of one step times some directions: ``(sample, unit, direction)`` in float64 per state."""
    directions = tangents[0].shape[-1]
    primals = [tf.repeat(state, directions, axis=0) for state in states]
    flat = [
        tf.cast(tf.reshape(tf.transpose(one, (0, 2, 1)), (-1, one.shape[1])), state.dtype)
        for one, state in zip(tangents, states, strict=True)
    ]
    with tf.autodiff.ForwardAccumulator(primals, flat) as forward_pass:
        _, new = cell(tf.repeat(x, directions, axis=0), primals)
        moved = [
            forward_pass.jvp(state, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            for state in tf.nest.flatten(new)
        ]
    return [
        tf.transpose(tf.reshape(tf.cast(one, tf.float64), (-1, directions, one.shape[-1])), (0, 2, 1))
        for one in moved
    ]
