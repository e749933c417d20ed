"""Taps on the loop over time of recurrent layers, Keras's own `RNN.inner_loop`.

The loop runs as it is with all timesteps noted, or with a cell that also tells its gates, or with one that
adds zeros to every state, by which one differentiates. Like all taps they live only while their block runs.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf

from see_rnn_like.cells import CellSpec, cell_spec
from see_rnn_like.engine.taps import current_graph, replaced
from see_rnn_like.errors import ArgumentError, CaptureError, UnsupportedLayerError


@dataclass(frozen=True)
class Unfolded:
    """One run of a layer's loop with all that its cell computes, in processing order.

    Attributes:
        rnn: the layer.
        inputs: ``(sample, time, input)``.
        mask: ``(sample, time)``, True where the cell runs; None without one.
        start: the states before the first timestep, ``(sample, unit)`` each.
        states: after each timestep, ``(sample, time, unit)`` each; carried where masked.
        gates: ``(sample, time, gate, unit)``; of no meaning where masked.
    """

    rnn: Any
    inputs: Any
    mask: Any
    start: list[Any]
    states: list[Any]
    gates: Any


@dataclass
class Loops:
    """Runs of loops by the id of their layer; `unfit` holds input shapes that do not fit."""

    seen: dict[int, list[Any]] = field(default_factory=dict)
    unfit: dict[int, tuple[int | None, ...]] = field(default_factory=dict)
    graph: Any = field(default_factory=current_graph)

    def sees(self, rnn: Any, sequences: Any) -> bool:
        """Whether a call can be looked into; what cannot is run as it is and reported by `only_run`."""
        if sequences.shape.rank != 3:
            self.unfit[id(rnn)] = tuple(sequences.shape)
            return False
        return current_graph() is self.graph


def only_run(loops: Loops, rnn: Any) -> Any:
    """The one run of a layer's loop.

    Raises:
        UnsupportedLayerError: if its input is not ``(sample, time, input)``.
        ArgumentError: if there was none, or more than one.
    """
    if id(rnn) in loops.unfit:
        raise UnsupportedLayerError(
            f"{rnn.name} takes input of shape {loops.unfit[id(rnn)]}; its inside can be shown for "
            "(sample, time, input)"
        )
    seen = loops.seen.get(id(rnn), [])
    if len(seen) != 1:
        raise ArgumentError(
            f"{rnn.name} is called {len(seen)} times within sight of this model's forward pass; expected "
            "once (not shared, not within a loop such as TimeDistributed)"
        )
    return seen[0]


@contextlib.contextmanager
def recorded_loops(rnns: Sequence[Any]) -> Iterator[Loops]:
    """Notes the states `h` of layers over all timesteps, as their own loops compute them."""
    with _replaced_loops(rnns, _recording) as loops:
        yield loops


@contextlib.contextmanager
def unfolded_loops(rnns: Sequence[Any]) -> Iterator[Loops]:
    """Runs the loops of layers by what the specs of their cells say, and notes all gates and states."""
    with _replaced_loops(rnns, _unfolding) as loops:
        yield loops


@contextlib.contextmanager
def perturbed_loops(rnns: Sequence[Any], tape: tf.GradientTape) -> Iterator[Loops]:
    """Adds zeros, watched by the tape, to all states of the layers."""
    with _replaced_loops(rnns, functools.partial(_perturbing, tape)) as loops:
        yield loops


#: Takes a layer, its own loop, and what the loop is given: sequences, initial states, mask, training.
#: Returns what the loop returns, and what to note of it.
_Run = Callable[[Any, Callable[..., Any], Any, Any, Any, bool], tuple[Any, Any]]


@contextlib.contextmanager
def _replaced_loops(rnns: Sequence[Any], run: _Run) -> Iterator[Loops]:
    loops = Loops()
    with contextlib.ExitStack() as stack:
        for rnn in rnns:
            stack.enter_context(replaced(rnn, "inner_loop", _noting(rnn, run, loops)))
        yield loops


def _noting(rnn: Any, run: _Run, loops: Loops) -> Callable[..., Any]:
    inner_loop = rnn.inner_loop

    @functools.wraps(inner_loop)
    def noted(sequences: Any, initial_state: Any, mask: Any = None, training: bool = False) -> Any:
        if not loops.sees(rnn, sequences):
            return inner_loop(sequences, initial_state, mask, training=training)
        returned, note = run(rnn, inner_loop, sequences, initial_state, mask, training)
        loops.seen.setdefault(id(rnn), []).append(note)
        return returned

    return noted


def _recording(
    rnn: Any, inner_loop: Callable[..., Any], sequences: Any, initial: Any, mask: Any, training: bool
) -> tuple[Any, Any]:
    with replaced(rnn, "return_sequences", True):
        last, outputs, states = inner_loop(sequences, initial, mask, training=training)
    _, alive = _as_processed(rnn, sequences, mask)
    start = tf.convert_to_tensor(tf.nest.flatten(initial)[0])
    return (last, outputs, states), carried(tf.cast(outputs, start.dtype), start, alive)


def _unfolding(
    rnn: Any, inner_loop: Callable[..., Any], sequences: Any, initial: Any, mask: Any, training: bool
) -> tuple[Any, Any]:
    start = [tf.convert_to_tensor(state) for state in tf.nest.flatten(initial)]
    with contextlib.ExitStack() as stack:
        stack.enter_context(_cell_called(rnn, _telling(rnn.cell, cell_spec(rnn.cell))))
        stack.enter_context(replaced(rnn, "return_sequences", True))
        # Written out, Keras's loop takes cells with a single output only.
        stack.enter_context(replaced(rnn, "unroll", False))
        last, (series, gates), ends = inner_loop(sequences, initial, mask, training=training)
    inputs, alive = _as_processed(rnn, sequences, mask)
    states = [carried(one, first, alive) for one, first in zip(series, start, strict=True)]
    return (last[0][0], series[0], ends), Unfolded(rnn, inputs, alive, start, states, gates)


def _telling(cell: Any, spec: CellSpec) -> Callable[..., Any]:
    """A call for a cell, by its spec, whose output is all new states and all gates."""

    def told(inputs: Any, states: Any, *_: Any, **__: Any) -> Any:
        before = tuple(tf.nest.flatten(states))
        gates = spec.activate(cell, inputs, before[0])
        new = list(spec.advance(cell, gates, before))
        return (new, gates), tf.nest.pack_sequence_as(states, new)

    return told


def carried(series: Any, start: Any, mask: Any) -> Any:
    """A series over time with every masked timestep holding what came before it, `start` at the beginning.

    Args:
        series: ``(sample, time, unit)`` in processing order.
        start: ``(sample, unit)``.
        mask: ``(sample, time)``, True where the series counts; None for everywhere.
    """
    if mask is None:
        return series
    times = tf.range(1, tf.shape(series)[1] + 1)
    # The position of the last timestep that ran, counted from 1; 0 is the start.
    last = tf.scan(tf.maximum, tf.transpose(tf.where(mask, times, 0)))
    return tf.gather(tf.concat([start[:, None], series], axis=1), tf.transpose(last), axis=1, batch_dims=1)


def _as_processed(rnn: Any, sequences: Any, mask: Any) -> tuple[Any, Any]:
    """Inputs and mask in the order in which the loop takes them."""
    masks = [tf.cast(one, tf.bool) for one in tf.nest.flatten(mask) if one is not None]
    one = masks[0] if masks else None
    if one is not None and one.shape.rank == 3:
        one = one[..., 0]
    if not rnn.go_backwards:
        return sequences, one
    return tf.reverse(sequences, [1]), None if one is None else tf.reverse(one, [1])


@dataclass(frozen=True)
class Perturbed:
    """One run of a loop with the zeros that were added, in processing order.

    Attributes:
        rnn: the layer.
        mask: as in `Unfolded`.
        start: added to the states before the first timestep, ``(sample, unit)`` each.
        states: added to the states after each timestep, ``(sample, time, unit)`` each.
        output: added to what leaves the loop, past the recurrence: ``(sample, time, unit)``, or
            ``(sample, unit)`` where the layer returns its last output only.
        last: the states after the last timestep.
    """

    rnn: Any
    mask: Any
    start: list[Any]
    states: list[Any]
    output: Any
    last: list[Any]


def _perturbing(
    tape: tf.GradientTape,
    rnn: Any,
    inner_loop: Callable[..., Any],
    sequences: Any,
    initial: Any,
    mask: Any,
    training: bool,
) -> tuple[Any, Any]:
    given = [tf.convert_to_tensor(state) for state in tf.nest.flatten(initial)]
    start = [tf.zeros_like(state) for state in given]
    states = [_zeros_over_time(state, tf.shape(sequences)[1]) for state in given]
    tape.watch([start, states])
    moved = [state + zero for state, zero in zip(given, start, strict=True)]
    with _cell_called(rnn, _perturbing_call(rnn.cell, [state.shape[-1] for state in given])):
        wide = _carrying(sequences, states, backwards=rnn.go_backwards)
        last, outputs, ends = inner_loop(wide, moved, mask, training=training)
    output = tf.zeros_like(outputs if rnn.return_sequences else last)
    tape.watch(output)
    _, alive = _as_processed(rnn, sequences, mask)
    note = Perturbed(rnn, alive, start, states, output, tf.nest.flatten(ends))
    if rnn.return_sequences:
        return (last, outputs + output, ends), note
    return (last + output, outputs, ends), note


def _zeros_over_time(state: Any, timesteps: Any) -> Any:
    return tf.zeros((tf.shape(state)[0], timesteps, state.shape[-1]), state.dtype)


def _carrying(sequences: Any, added: Sequence[Any], backwards: bool) -> Any:
    """Inputs with what is to be added to the states beside them; a backward loop will turn both round."""
    turned = [tf.reverse(one, [1]) for one in added] if backwards else added
    return tf.concat([sequences, *(tf.cast(one, sequences.dtype) for one in turned)], axis=-1)


@contextlib.contextmanager
def _cell_called(rnn: Any, call: Callable[..., Any]) -> Iterator[None]:
    """Has a layer's loop call its cell by another function."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(replaced(rnn.cell, "call", call))
        if hasattr(rnn, "use_cudnn"):
            # cuDNN's kernel takes the weights and never calls the cell.
            stack.enter_context(replaced(rnn, "use_cudnn", False))
        yield


def _perturbing_call(cell: Any, sizes: Sequence[int]) -> Callable[..., Any]:
    """The cell's call on inputs that carry, after the cell's own, what to add to each state."""
    call = cell.call

    @functools.wraps(call)
    def perturbed(inputs: Any, states: Any, *args: Any, **kwargs: Any) -> Any:
        own, *added = tf.split(inputs, [inputs.shape[-1] - sum(sizes), *sizes], axis=-1)
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                inner.watch([own, states])
                output, new = call(own, states, *args, **kwargs)
            first, *others = tf.nest.flatten(new)
            if output is not first:
                raise CaptureError(
                    f"{type(cell).__name__} returns an output that is not its first state: derivatives by "
                    "its states cannot be told apart from those by its output"
                )
            added = [tf.cast(zero, first.dtype) for zero in added]
            follows = _following(outer, inner, first, others, added[1:])
        moved = [first + added[0] + follows, *(a + b for a, b in zip(others, added[1:], strict=True))]
        return moved[0], tf.nest.pack_sequence_as(new, moved)

    return perturbed


def _following(
    outer: tf.GradientTape, inner: tf.GradientTape, first: Any, others: Sequence[Any], added: Sequence[Any]
) -> Any:
    """By how much the first state moves with the others within a step, as an LSTM's `h` with its `c`.

    The product of a Jacobian with a vector, by differentiating the transposed product, which is linear.
    """
    if not others:
        return tf.zeros_like(first)
    zero = tf.zeros_like(first)
    outer.watch(zero)
    unconnected = tf.UnconnectedGradients.ZERO
    pulled = inner.gradient(first, others, zero, unconnected_gradients=unconnected)
    return outer.gradient(pulled, zero, list(added), unconnected_gradients=unconnected)
