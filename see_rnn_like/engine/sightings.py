"""What is seen while a train step is run again: tensors that are not finite, in the order they come by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from see_rnn_like.models.layout import WeightSlot

#: Of a tensor watched over timesteps: kind (``value``, ``gradient``, the latter also ``before activation``),
#: layer, direction, role, gate.
SeriesKey = tuple[str, str | None, str | None, str, str | None]


@dataclass(eq=False)
class Call:
    """One call of a layer, with those of its tensors that were not finite.

    Attributes:
        layer: path of the layer.
        source: the layer.
        parent: the call of the layer around it, if it was called inside one.
        inputs: bad tensors it was given.
        outputs: bad tensors it returned.
    """

    layer: str
    source: Any
    parent: Call | None
    inputs: list[Any] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)


class Moment:
    """The timestep a tensor belongs to; known once the loop over time has ended.

    Attributes:
        timestep: in input order; None before, and for what the loop throws away.
        timesteps: how many there are.
        alive: which samples the mask lets count, ``(sample,)``; None for all.
    """

    def __init__(self) -> None:
        self.timestep: int | None = None
        self.timesteps: int | None = None
        self.alive: np.ndarray | None = None


@dataclass(eq=False)
class Note:
    """What a tap knows about the tensor it watches.

    Attributes:
        call: the call it belongs to.
        layer: path of the layer, with the cell's name behind it where cells are stacked.
        direction: of a recurrent layer.
        role: ``output``, ``input``, ``gates``, ``h``, …
        axes: of the tensor, ``sample``, ``time`` and ``unit`` where it has them.
        gate: of a cell.
        reversed_time: whether the tensor holds its last timestep first.
        moment: of a tensor that belongs to one timestep.
        before: the pre-activation of a gate, or the logits of an output.
        activation: name of the function that made it.
        slot: the weight, if it is the gradient of one.
        pre_activation: whether it is what a gate's activation is given.
    """

    call: Call | None
    layer: str | None
    direction: str | None
    role: str
    axes: tuple[str, ...]
    gate: str | None = None
    reversed_time: bool = False
    moment: Moment | None = None
    before: Any = None
    activation: str | None = None
    slot: WeightSlot | None = None
    pre_activation: bool = False

    def key(self, kind: str) -> SeriesKey:
        """Under what the maxima over time are kept."""
        kind = f"{kind} before activation" if self.pre_activation else kind
        return (kind, self.layer, self.direction, self.role, self.gate)


@dataclass(eq=False)
class Sighting:
    """A tensor that was not finite.

    Attributes:
        phase: ``"forward"``, ``"loss"`` or ``"backward"``.
        note: what it is.
        values: its values in input order; those of masked samples are 0.
        before: values of the pre-activation, if there is one.
        what: more about it, for a person.
        weight: whether it is the gradient of a weight.
    """

    phase: str
    note: Note
    values: np.ndarray
    before: np.ndarray | None = None
    what: str | None = None
    weight: bool = False


class Record:
    """Collects sightings from taps.

    Attributes:
        batch: number of samples; None if unknown.
        sightings: in the order in which they came by; of gradients of outputs the first only.
        series: largest absolute value per timestep.
        predicted: what the model returned, call by call, and the logits of it.
        heads: outputs of layers with notes of their logits, and these.
        calls: the calls of layers, in the order in which they began.
        loss_seen: whether the model computed its loss where that can be seen.
        ruined: whether the step itself wrote something bad into a trainable weight.
    """

    def __init__(self, batch: int | None, replica: int) -> None:
        self.batch = batch
        self.sightings: list[Sighting] = []
        self.series: dict[SeriesKey, dict[int, float]] = {}
        self.predicted: list[Any] = []
        self.heads: list[tuple[Any, Note, Any]] = []
        self.calls: list[Call] = []
        self.loss_seen = False
        self.ruined = False
        self._replica = replica
        self._saw_gradient = False
        self._open: list[Call] = []
        self._numbers: Counter[int] = Counter()
        self._same: dict[int, tuple[Any, Any]] = {}

    # -- calls --------------------------------------------------------------------------------

    @property
    def listens(self) -> bool:
        """Whether this is the replica to watch, and its tensors have values."""
        context = tf.distribute.get_replica_context()
        here = context is not None and context.replica_id_in_sync_group == self._replica
        return here and tf.executing_eagerly()

    @property
    def open_call(self) -> Call | None:
        """The innermost call that is running."""
        return self._open[-1] if self._open else None

    def number(self, owner: Any) -> int:
        """How often it was asked for this owner before."""
        self._numbers[id(owner)] += 1
        return self._numbers[id(owner)] - 1

    def begin(self, layer: str, source: Any) -> Call:
        """Opens a call."""
        call = Call(layer, source, self.open_call)
        self.calls.append(call)
        self._open.append(call)
        return call

    def end(self) -> None:
        """Closes the innermost call."""
        self._open.pop()

    # -- the way of a bad tensor -------------------------------------------------------------------

    def same(self, new: Any, old: Any) -> None:
        """Notes that a tensor is another one handed on."""
        self._same[id(new)] = (new, self.root(old))

    def root(self, tensor: Any) -> Any:
        """The tensor of which this one is handed on."""
        return self._same[id(tensor)][1] if id(tensor) in self._same else tensor

    def producer(self, tensor: Any) -> Call | None:
        """The call that returned a bad tensor; None for data and for operations between layers."""
        root = self.root(tensor)
        return next((c for c in self.calls if any(self.root(t) is root for t in c.outputs)), None)

    def lives(self, call: Call, asked: frozenset[int] = frozenset()) -> bool:
        """Whether something bad left a call and was not made finite again by those who took it."""
        if id(call) in asked or not call.outputs:
            return False
        asked |= {id(call)}
        if call.parent is not None and not call.parent.outputs:
            return False
        return any(self._reaches(tensor, asked) for tensor in call.outputs)

    def _reaches(self, tensor: Any, asked: frozenset[int]) -> bool:
        root = self.root(tensor)
        others = [call for call in self.calls if id(call) not in asked]
        takers = [c for c in others if any(self.root(t) is root for t in c.inputs)]
        # What no layer takes goes into the loss, or into operations of which nothing is seen.
        return not takers or any(self.lives(call, asked) for call in takers)

    # -- tensors ---------------------------------------------------------------------------------

    def value(self, note: Note, tensor: Any, phase: str = "forward", what: str | None = None) -> bool:
        """Looks at a tensor of the forward pass or the loss; tells whether it is bad."""
        values = array_of(tensor)
        alive = note.moment.alive if note.moment is not None else None
        if alive is not None:
            values = np.where(alive.reshape(-1, *[1] * (values.ndim - 1)), values, 0)
        before = None if note.before is None else array_of(note.before)
        self._measure(note, "value", values if before is None else before)
        if np.isfinite(values).all():
            return False
        self.sightings.append(Sighting(phase, note, self._in_order(note, values), before, what))
        return True

    def gradient(self, note: Note, upstream: Any) -> None:
        """Looks at a gradient that comes by."""
        if not self.listens:
            return
        values = array_of(upstream)
        self._measure(note, "gradient", values)
        if not self._saw_gradient and not np.isfinite(values).all():
            self._saw_gradient = True
            self.sightings.append(Sighting("backward", note, self._in_order(note, values)))

    def weight_gradient(self, note: Note, gradient: Any) -> None:
        """Looks at a gradient that an optimizer is given."""
        values = array_of(gradient)
        if not np.isfinite(values).all():
            self.sightings.append(Sighting("backward", note, values, weight=True))

    def _measure(self, note: Note, kind: str, values: np.ndarray) -> None:
        if note.moment is None or note.moment.timestep is None:
            return
        alive = note.moment.alive
        counted = values if alive is None or len(alive) != len(values) else values[alive]
        largest = float(np.abs(counted).max()) if counted.size else 0.0
        series = self.series.setdefault(note.key(kind), {})
        # A state's gradient comes by in two parts where the cell's output is a function of it.
        series[note.moment.timestep] = float(np.maximum(largest, series.get(note.moment.timestep, 0.0)))

    def _in_order(self, note: Note, values: np.ndarray) -> np.ndarray:
        return values[:, ::-1] if note.reversed_time else values


def array_of(tensor: Any) -> np.ndarray:
    """The values of an eager tensor or of a sparse gradient; bfloat16, which NumPy lacks, as float32."""
    if isinstance(tensor, tf.IndexedSlices):
        tensor = tf.convert_to_tensor(tensor)
    values = np.asarray(tensor.numpy())
    return values.astype("float32") if values.dtype.name == "bfloat16" else values


def is_seen(tensor: Any) -> bool:
    """Whether it is a floating-point tensor that has values."""
    return isinstance(tensor, tf.Tensor) and tensor.dtype.is_floating and not tf.is_symbolic_tensor(tensor)


def bad(tensors: Sequence[Any]) -> Iterator[Any]:
    """Those of some tensors that are not finite."""
    for tensor in tensors:
        if is_seen(tensor) and not np.isfinite(array_of(tensor)).all():
            yield tensor
