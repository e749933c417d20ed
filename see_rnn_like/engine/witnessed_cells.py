"""Taps inside recurrent cells, timestep by timestep, while a train step runs eagerly.

Run eagerly, Keras's loop over time is a loop in Python that calls the cell once per timestep. The gates of
Keras's own cells are seen where their activation functions are called; those of other registered cells are
computed from the cell's inputs by their spec, and believed only if the spec then gives the new states.
"""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from see_rnn_like.cells import CellSpec, cell_spec, is_known_cell
from see_rnn_like.engine.sightings import Call, Moment, Note, Record, array_of, is_seen
from see_rnn_like.engine.taps import observed, replaced
from see_rnn_like.models.layout import RecurrentPart, Site, recurrent_parts


@contextlib.contextmanager
def watched_cells(site: Site, record: Record) -> Iterator[None]:
    """Watches the recurrent cells of a layer, if it has any, in the block.

    Args:
        site: the layer.
        record: receives what is seen.
    """
    with contextlib.ExitStack() as stack:
        for part in recurrent_parts(site.layer):
            if hasattr(part.rnn, "use_cudnn"):
                # cuDNN's kernel takes the weights and never calls the cell.
                stack.enter_context(replaced(part.rnn, "use_cudnn", False))
            loop = _watched_loop(site.path, part, record)
            stack.enter_context(replaced(part.rnn, "inner_loop", loop))
        yield


def _watched_loop(path: str, part: RecurrentPart, record: Record) -> Callable[..., Any]:
    inner_loop = part.rnn.inner_loop

    @functools.wraps(inner_loop)
    def watched(sequences: Any, initial_state: Any, mask: Any = None, training: bool = False) -> Any:
        if not record.listens:
            return inner_loop(sequences, initial_state, mask, training=training)
        loop = _Loop(path, part, record, record.number(part.rnn))
        with contextlib.ExitStack() as stack:
            for cell in part.cells:
                stack.enter_context(replaced(cell, "call", _watched_call(cell, loop)))
            result = inner_loop(sequences, initial_state, mask, training=training)
        loop.tell(tf.nest.flatten(sequences)[0].shape[1], _alive(mask))
        return result if part.rnn.unroll else loop.connected(result)

    return watched


def _alive(mask: Any) -> np.ndarray | None:
    """Where the cell runs, ``(sample, time)`` in input order; None for everywhere."""
    masks = [one for one in tf.nest.flatten(mask) if one is not None]
    if not masks:
        return None
    alive = np.asarray(masks[0]).astype(bool)
    return alive[..., 0] if alive.ndim == 3 else alive


@dataclass(eq=False)
class _Loop:
    """One run of a layer's loop over time; what is seen in it is told when it has ended."""

    path: str
    part: RecurrentPart
    record: Record
    number: int
    seen: list[tuple[Note, Any]] = field(default_factory=list)
    passed: list[tuple[Moment, Any]] = field(default_factory=list)
    moments: list[tuple[Any, int, Moment]] = field(default_factory=list)
    steps: Counter[int] = field(default_factory=Counter)

    def moment(self, cell: Any) -> Moment:
        """A new timestep of a cell."""
        moment = Moment()
        self.moments.append((cell, self.steps[id(cell)], moment))
        self.steps[id(cell)] += 1
        return moment

    def note(self, cell: Any, role: str, tensor: Any, moment: Moment, **more: Any) -> Note:
        """A note for a tensor of a cell."""
        stacked = len(self.part.cells) > 1
        layer = f"{self.path}/{cell.name}" if stacked else self.path
        numbered = f"{role}@{self.number}" if self.number else role
        axes = _axes(cell, len(tensor.shape))
        return Note(self._call, layer, self.part.direction, numbered, axes, moment=moment, **more)

    @property
    def _call(self) -> Call | None:
        return self.record.open_call

    def tell(self, timesteps: int, alive: np.ndarray | None) -> None:
        """Says when everything was, and hands on what was seen.

        Unless unrolled, Keras's loop calls the cell once before it begins, to learn the shapes
        (`keras/src/backend/tensorflow/rnn.py`, output_time_zero), and throws the result away.
        """
        for cell, step, moment in self.moments:
            before = self.steps[id(cell)] - timesteps
            at = step - before
            if before not in (0, 1) or at < 0:
                continue
            moment.timestep = timesteps - 1 - at if self.part.rnn.go_backwards else at
            moment.timesteps = timesteps
            moment.alive = None if alive is None else alive[:, moment.timestep]
        for note, tensor in self.seen:
            if note.moment is not None and note.moment.timestep is not None:
                self.record.value(note, tensor)
        self.seen.clear()

    def connected(self, result: Any) -> Any:
        """The result of the loop, which in the backward pass gives zeros to all that the cells returned.

        So does a compiled loop (`tensorflow/python/ops/while_v2.py`), also to what nothing took: a state
        that the cell ignores, an output that the next one replaces. Behind them 0 · Inf may come out.
        """
        flat = tf.nest.flatten(result)
        ends = [tensor for tensor in flat if is_seen(tensor)]
        inside = [tensor for moment, tensor in self.passed if moment.timestep is not None]
        after = dict(zip(map(id, ends), _joined(ends, inside), strict=True))
        return tf.nest.pack_sequence_as(result, [after.get(id(tensor), tensor) for tensor in flat])


def _joined(ends: list[Any], inside: list[Any]) -> list[Any]:
    """Tensors handed on, with gradients of zero for others."""

    @tf.custom_gradient
    def joined(*tensors: Any) -> tuple[Any, Callable[..., Any]]:
        def gradient(*upstream: Any) -> list[Any]:
            return [*upstream, *(tf.zeros_like(tensor) for tensor in inside)]

        return [tf.identity(tensor) for tensor in tensors[: len(ends)]], gradient

    return list(joined(*ends, *inside))


def _axes(cell: Any, rank: int) -> tuple[str, ...]:
    if getattr(cell, "data_format", None) == "channels_first":
        return ("sample", "unit", *(f"axis_{i}" for i in range(2, rank)))
    return ("sample", *(f"axis_{i}" for i in range(1, rank - 1)), "unit")[:rank]


def _watched_call(cell: Any, loop: _Loop) -> Callable[..., Any]:
    call = cell.call
    spec = cell_spec(cell) if is_known_cell(cell) else None
    tells = spec is not None and type(cell).call.__module__.startswith("keras.")

    @functools.wraps(call)
    def watched(inputs: Any, states: Any, *args: Any, **kwargs: Any) -> Any:
        moment = loop.moment(cell)
        if spec is not None and tells:
            with _watched_activations(cell, spec, loop, moment):
                output, new = call(inputs, states, *args, **kwargs)
        else:
            output, new = call(inputs, states, *args, **kwargs)
            if spec is not None:
                _replay_gates(cell, spec, loop, moment, inputs, states, new)
        return _watched_states(cell, spec, loop, moment, output, new)

    return watched


@contextlib.contextmanager
def _watched_activations(cell: Any, spec: CellSpec, loop: _Loop, moment: Moment) -> Iterator[None]:
    """Sees the gates of one of Keras's cells, which activate them one by one in the order of their spec."""
    gates = iter(spec.gates)
    with contextlib.ExitStack() as stack:
        for name in ("activation", "recurrent_activation"):
            function = getattr(cell, name, None)
            if function is not None:
                activation = _watched_activation(function, gates, cell, spec, loop, moment)
                stack.enter_context(replaced(cell, name, activation))
        yield


def _watched_activation(
    activation: Callable[..., Any],
    gates: Iterator[str],
    cell: Any,
    spec: CellSpec,
    loop: _Loop,
    moment: Moment,
) -> Callable[..., Any]:
    name = getattr(activation, "__name__", None) or getattr(activation, "name", type(activation).__name__)

    def activated(z: Any) -> Any:
        gate = next(gates, None)
        if gate is None:
            # The cell's state on its way into the output, as in an LSTM's `h = o * activation(c)`.
            return activation(_passed(loop, loop.note(cell, spec.states[-1], z, moment), z))
        before = loop.note(cell, "gates", z, moment, gate=gate, activation=name, pre_activation=True)
        value = activation(_passed(loop, before, z))
        note = loop.note(cell, "gates", value, moment, gate=gate, before=z, activation=name)
        loop.seen.append((note, value))
        return _passed(loop, note, value)

    return activated


def _passed(loop: _Loop, note: Note, tensor: Any) -> Any:
    if not is_seen(tensor):
        return tensor
    passed = observed(tensor, functools.partial(loop.record.gradient, note))
    if hasattr(tensor, "_keras_logits"):
        passed._keras_logits = tensor._keras_logits
    return passed


def _replay_gates(
    cell: Any, spec: CellSpec, loop: _Loop, moment: Moment, inputs: Any, states: Any, new: Any
) -> None:
    """Sees the gates of another registered cell, if its spec tells truly how the states come about."""
    before = tuple(tf.nest.flatten(states))
    gates = spec.activate(cell, inputs, before[0])
    told = spec.advance(cell, gates, before)
    pairs = zip(tf.nest.flatten(new), told, strict=False)
    if not all(_alike(array_of(a), array_of(b)) for a, b in pairs):
        return
    for index, gate in enumerate(spec.gates):
        value = gates[..., index, :]
        loop.seen.append((loop.note(cell, "gates", value, moment, gate=gate), value))


def _alike(a: np.ndarray, b: np.ndarray) -> bool:
    tolerance = 1e-2 if a.dtype.itemsize < 4 else 1e-4
    return a.shape == b.shape and np.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)


def _watched_states(
    cell: Any, spec: CellSpec | None, loop: _Loop, moment: Moment, output: Any, new: Any
) -> tuple[Any, Any]:
    flat = tf.nest.flatten(new)
    names = spec.states if spec is not None else _state_names(len(flat))
    notes = [loop.note(cell, name, t, moment) for name, t in zip(names, flat, strict=False)]
    # The first state is the output, which is computed last.
    loop.seen += [(n, t) for n, t in list(zip(notes, flat, strict=False))[::-1] if is_seen(t)]
    passed = [_passed(loop, note, t) for note, t in zip(notes, flat, strict=False)] + flat[len(notes) :]
    seen = {id(before): after for before, after in zip(flat, passed, strict=True)}
    if id(output) not in seen and is_seen(output):
        note = loop.note(cell, "output", output, moment)
        loop.seen.append((note, output))
        seen[id(output)] = _passed(loop, note, output)
    loop.passed += [(moment, tensor) for tensor in seen.values() if is_seen(tensor)]
    return seen.get(id(output), output), tf.nest.pack_sequence_as(new, passed)


def _state_names(count: int) -> tuple[str, ...]:
    return ("h", *(f"state_{i}" for i in range(1, count)))
