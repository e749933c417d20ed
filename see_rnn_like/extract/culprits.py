"""Who is to blame for a train step that is not finite: judged by running it again without the suspect."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from see_rnn_like.cells import cell_spec, is_known_cell
from see_rnn_like.engine.sightings import Call, Record, Sighting, array_of, is_seen
from see_rnn_like.engine.untouched import untouched_variables
from see_rnn_like.engine.witness import replay
from see_rnn_like.models.layout import WeightSlot, recurrent_parts, sites


@dataclass(frozen=True, eq=False)
class BadData:
    """A tensor of the batch that is to blame.

    Attributes:
        role: ``x``, ``y`` or ``sample_weight``, with the place within a dict or list behind.
        values: the tensor.
        axes: its axes, ``sample``, ``time`` and ``unit`` where it has them.
    """

    role: str
    values: np.ndarray
    axes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class BadWeight:
    """A variable that is to blame."""

    slot: WeightSlot
    values: np.ndarray


Suspect = BadData | BadWeight


# -- the first sighting that matters -------------------------------------------------------------------


def first_of(record: Record) -> Sighting | None:
    """The first tensor that was not finite and did harm; None if loss and gradients are finite."""
    by_phase = {phase: [s for s in record.sightings if s.phase == phase] for phase in _PHASES}
    if by_phase["loss"]:
        return _first_before_loss(record, by_phase["forward"]) or by_phase["loss"][0]
    harmful = record.ruined or any(s.weight for s in by_phase["backward"])
    if not harmful:
        return None
    if not by_phase["backward"]:
        return next(iter(by_phase["forward"]), None)
    return _behind(record, by_phase["backward"][0]) or by_phase["backward"][0]


_PHASES = ("forward", "loss", "backward")


def _first_before_loss(record: Record, forward: Sequence[Sighting]) -> Sighting | None:
    added = any(s.phase == "loss" and s.note.layer is not None for s in record.sightings)
    predicted = [array_of(tensor) for tensor in record.predicted]
    if predicted and not added and all(np.isfinite(values).all() for values in predicted):
        return None
    return next((s for s in forward if s.note.call is None or record.lives(s.note.call)), None)


def _behind(record: Record, backward: Sighting) -> Sighting | None:
    """What was bad in the forward pass already of the layer in whose backward pass it came out.

    The forward pass may have put it right: a mask, or a `where`, of which the gradient is 0 · NaN.
    """
    layer = backward.note.layer
    calls = [call for call in record.calls if _within(layer, call.layer)]
    upstream = _upstream(record, calls)
    return next((s for s in record.sightings if s.phase == "forward" and s.note.call in upstream), None)


def _within(layer: str | None, path: str) -> bool:
    return layer is not None and (layer == path or layer.startswith(f"{path}/"))


def _upstream(record: Record, calls: Sequence[Call]) -> list[Call]:
    """Some calls and those that gave them what is bad, back to the first."""
    found: list[Call] = []
    waiting = list(calls)
    while waiting:
        call = waiting.pop()
        if call not in found:
            found.append(call)
            waiting += [c for c in map(record.producer, call.inputs) if c is not None]
            waiting += [call.parent] if call.parent is not None else []
    return found


def suspect(model: Any, data: Any, record: Record, first: Sighting, replica: int | None) -> Suspect | None:
    """The data, or else the weight, without whose bad values the step would not have gone wrong there."""
    return _bad_data(model, data, record, first, replica) or _bad_weight(model, data, first, replica)


# -- data ------------------------------------------------------------------------------------------


def _bad_data(model: Any, data: Any, record: Record, first: Sighting, replica: int | None) -> BadData | None:
    """The tensor of the batch without whose bad values the step would not have gone wrong there."""
    leaves = [leaf for leaf in _leaves(data) if is_seen(leaf[1]) and not np.isfinite(array_of(leaf[1])).all()]
    for cleaned in [*([leaf] for leaf in leaves), leaves] if leaves else []:
        repaired = _repaired(data, {id(tensor) for _, tensor in cleaned})
        if not _same_place(first, first_of(replay(model, repaired, replica))):
            role, tensor = cleaned[0]
            values = array_of(tensor)
            return BadData(role, values, _axes(model, record, role, values.shape))
    return None


def _axes(model: Any, record: Record, role: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    rank = len(shape)
    axes = ["sample", *(f"axis_{i}" for i in range(1, rank - 1)), "unit"][:rank]
    if role.startswith("sample_weight"):
        axes = ["sample", *(f"axis_{i}" for i in range(1, rank))]
        over_time = rank == 2 and shape[1] > 1
    elif role.startswith("y") and rank == 2:
        # Keras takes one number per timestep for predictions with a last axis of one.
        predicted = {tuple(tensor.shape) for tensor in record.predicted}
        over_time = (*shape, 1) in predicted and shape not in predicted
        axes[1] = "time" if over_time else "unit"
    else:
        over_time = rank == 3 or (rank > 3 and _over_time(model))
    if over_time:
        axes[1] = "time"
    return tuple(axes)


def _over_time(model: Any) -> bool:
    """Whether data of more than three axes are sequences, of images say, and not single images."""
    layers = [site.layer for site in sites(model)]
    return any(recurrent_parts(layer) or isinstance(layer, keras.layers.TimeDistributed) for layer in layers)


def _leaves(data: Any) -> Iterator[tuple[str, Any]]:
    parts = keras.utils.unpack_x_y_sample_weight(data)
    for name, part in zip(("x", "y", "sample_weight"), parts, strict=True):
        yield from _named(name, part)


def _named(name: str, part: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(part, dict):
        for key, item in part.items():
            yield from _named(f"{name}/{key}", item)
    elif isinstance(part, list | tuple):
        for place, item in enumerate(part):
            yield from _named(f"{name}/{place}", item)
    elif part is not None:
        yield name, part


def _repaired(data: Any, bad: set[int]) -> Any:
    return tf.nest.map_structure(lambda t: _finite(t) if id(t) in bad else t, data)


def _finite(tensor: Any) -> Any:
    """A tensor with its median in the place of what is not finite."""
    values = array_of(tensor)
    fine = values[np.isfinite(values)]
    instead = np.median(fine) if fine.size else 0.0
    return tf.cast(np.where(np.isfinite(values), values, instead), tensor.dtype)


def _same_place(one: Sighting, other: Sighting | None) -> bool:
    return other is not None and _place(one) == _place(other)


def _place(sighting: Sighting) -> tuple[Any, ...]:
    note = sighting.note
    timestep = note.moment.timestep if note.moment is not None else None
    places = np.argwhere(~np.isfinite(sighting.values)).tolist()
    return (sighting.phase, note.layer, note.direction, note.role, note.gate, timestep, places)


# -- weights -----------------------------------------------------------------------------------------


def _bad_weight(model: Any, data: Any, first: Sighting, replica: int | None) -> BadWeight | None:
    """The weight without whose bad values the step would not have gone wrong there."""
    slots = [slot for slot in _slots(model) if not np.isfinite(array_of(slot.variable.value)).all()]
    by_layer: dict[str, list[WeightSlot]] = {}
    for slot in sorted(slots, key=lambda slot: slot.layer != first.note.layer):
        by_layer.setdefault(slot.layer, []).append(slot)
    for group in by_layer.values():
        if _matters(model, data, first, replica, group):
            alone = (slot for slot in group if _matters(model, data, first, replica, [slot]))
            guilty = next(alone, group[0]) if len(group) > 1 else group[0]
            return BadWeight(guilty, array_of(guilty.variable.value))
    return None


def _matters(
    model: Any, data: Any, first: Sighting, replica: int | None, slots: Sequence[WeightSlot]
) -> bool:
    variables = [slot.variable.value for slot in slots]
    with untouched_variables(variables):
        for variable in variables:
            variable.assign(_finite(variable.read_value()))
        return not _same_place(first, first_of(replay(model, data, replica)))


def _slots(model: Any) -> Iterator[WeightSlot]:
    """All weights, and the states that stateful layers keep from batch to batch."""
    for site in sites(model):
        yield from site.weights
        for part in recurrent_parts(site.layer):
            cell = part.cells[0]
            names = cell_spec(cell).states if is_known_cell(cell) and len(part.cells) == 1 else ()
            for place, state in enumerate(tf.nest.flatten(part.rnn.states or ())):
                role = names[place] if place < len(names) else f"state_{place}"
                yield WeightSlot(site.path, part.direction, role, state, None)
