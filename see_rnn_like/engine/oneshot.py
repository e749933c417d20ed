"""One forward pass, and one backward pass, outside of training: outputs and gradients of chosen layers.

`extract` says what to fetch and names what comes back; see `programs` for how requests are compiled and kept.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from see_rnn_like.engine import programs
from see_rnn_like.engine.losses import compiled_loss, forward, scaled, unscaled
from see_rnn_like.engine.native import inner_optimizer
from see_rnn_like.engine.programs import Request, optimizer_of
from see_rnn_like.engine.taps import replaced
from see_rnn_like.models.layout import is_variable


@dataclass(frozen=True)
class OutputOf:
    """What a layer (or a `keras.ops` operation of a functional model) returns."""

    source: Any


@dataclass(frozen=True)
class InputOf:
    """What goes into the model.

    Attributes:
        place: position in the flattened input, key of a dict input, or None for all of it.
    """

    place: int | str | None


@dataclass(frozen=True)
class Weight:
    """A variable of the model."""

    variable: Any


Wanted = OutputOf | InputOf | Weight

#: Per thing wanted: per call, the tensors of that call; weights and inputs have one call.
Found = list[list[list[Any]]]


def fetch_outputs(model: Any, wanted: Sequence[Wanted], x: Any, training: bool) -> Found:
    """Runs the model forward and fetches what layers returned.

    Args:
        model: a built Keras 3 model.
        wanted: outputs and inputs.
        x: input tensors in the structure the model takes.
        training: whether layers run in training mode.

    Returns:
        Tensors, per thing wanted and call; no call at all for a layer that this forward pass does not
        reach, or only inside a loop or a tf.function of its own.
    """
    return programs.run(model, OutputsRequest(tuple(wanted), training), x)


def fetch_gradients(
    model: Any, wanted: Sequence[Wanted], x: Any, y: Any, sample_weight: Any, training: bool, clip: bool
) -> Found:
    """Runs the model forward and backward and fetches gradients of the compiled loss.

    Args:
        model: a built and compiled Keras 3 model.
        wanted: outputs, inputs and weights.
        x: input tensors in the structure the model takes.
        y: target tensors.
        sample_weight: weights of the samples, or None.
        training: whether layers run in training mode.
        clip: whether to clip as the optimizer does (`clipnorm`, `clipvalue`, `global_clipnorm`).

    Returns:
        Gradients, unscaled, per thing wanted and call, zero where the loss does not depend on it; None in
        place of tensors that are not floating-point.
    """
    return programs.run(model, GradientsRequest(tuple(wanted), training, clip), x, y, sample_weight)


@dataclass(frozen=True)
class OutputsRequest(Request):
    """What layers return for a batch."""

    wanted: tuple[Wanted, ...]
    training: bool
    name = "outputs"

    def key(self) -> tuple[Hashable, ...]:
        """By what is wanted and the mode."""
        return (self.name, self.training, tuple(_identity(item) for item in self.wanted))

    def weakly(self) -> Callable[[], OutputsRequest]:
        """Holds layers weakly."""
        wanted, training = [_weakly(item) for item in self.wanted], self.training
        return lambda: OutputsRequest(tuple(item() for item in wanted), training)

    def compute(self, model: Any, kept: list[Any], x: Any) -> Found:
        """One forward pass."""
        with _recorded(self.wanted, None) as recorder:
            forward(model, x, self.training)
        return [_tensors(item, x, recorder) for item in self.wanted]


@dataclass(frozen=True)
class GradientsRequest(Request):
    """Gradients of the compiled loss for a batch."""

    wanted: tuple[Wanted, ...]
    training: bool
    clip: bool
    name = "gradients"

    def key(self) -> tuple[Hashable, ...]:
        """By what is wanted, the mode and whether to clip."""
        return (self.name, self.training, self.clip, tuple(_identity(item) for item in self.wanted))

    def weakly(self) -> Callable[[], GradientsRequest]:
        """Holds layers and variables weakly."""
        wanted, training, clip = [_weakly(item) for item in self.wanted], self.training, self.clip
        return lambda: GradientsRequest(tuple(item() for item in wanted), training, clip)

    def compute(self, model: Any, kept: list[Any], x: Any, y: Any, sample_weight: Any) -> Found:
        """One forward and one backward pass."""
        return _gradients(model, self, kept, x, y, sample_weight)


def _identity(item: Wanted) -> Hashable:
    match item:
        case OutputOf(source):
            return ("output", id(source))
        case Weight(variable):
            return ("weight", id(variable))
        case InputOf(place):
            return ("input", place)


def _weakly(item: Wanted) -> Callable[[], Any]:
    if isinstance(item, InputOf):
        return lambda: item
    if isinstance(item, OutputOf):
        source = weakref.ref(item.source)
        return lambda: OutputOf(source())
    variable = weakref.ref(item.variable)
    return lambda: Weight(variable())


# -- traced -------------------------------------------------------------------------------------


class _Recorder:
    """Notes what layers return while the model runs, call by call.

    Every tensor is replaced by one of its own: a layer may return its input as it came (dropout at
    inference), and a nested model returns its last layer's tensor, and still each has its own gradient.
    """

    def __init__(self, tape: tf.GradientTape | None) -> None:
        self.calls: dict[int, list[list[Any]]] = {}
        self.bypassed: set[int] = set()
        self._tape = tape
        self._graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()

    def recording(self, source: Any) -> Callable[..., Any]:
        call = source.call

        def recorded(*args: Any, **kwargs: Any) -> Any:
            return self._note(source, call(*args, **kwargs))

        return recorded

    def _note(self, source: Any, outputs: Any) -> Any:
        if self._graph is not None and tf.compat.v1.get_default_graph() is not self._graph:
            return outputs
        passed = [self._own(tensor) for tensor in tf.nest.flatten(outputs)]
        self.calls.setdefault(id(source), []).append([t for t in passed if tf.is_tensor(t)])
        return tf.nest.pack_sequence_as(outputs, passed)

    def _own(self, tensor: Any) -> Any:
        if not tf.is_tensor(tensor):
            return tensor
        own = _same_shortcut(tensor)
        mask = getattr(tensor, "_keras_mask", None)
        if mask is not None:
            own._keras_mask = mask
        if _has_shortcut(own):
            self.bypassed.add(id(own))
        if self._tape is not None and own.dtype.is_floating:
            self._tape.watch(own)
        return own


_LOGITS_OPS = {"Softmax": tf.nn.softmax, "Sigmoid": tf.sigmoid}


def _logits_op(tensor: Any) -> str | None:
    """The op whose input Keras's crossentropies would take in place of this probability."""
    if not tf.is_symbolic_tensor(tensor) or tensor.op.type not in _LOGITS_OPS:
        return None
    return str(tensor.op.type)


def _has_shortcut(tensor: Any) -> bool:
    """Whether Keras's crossentropies step over this probability to the logits it came from."""
    return hasattr(tensor, "_keras_logits") or _logits_op(tensor) is not None


def _same_shortcut(tensor: Any) -> Any:
    """A tensor of its own with the same value, on which the loss is computed the same way."""
    if hasattr(tensor, "_keras_logits"):
        own = tf.identity(tensor)
        own._keras_logits = tensor._keras_logits
        return own
    op = _logits_op(tensor)
    return tf.identity(tensor) if op is None else _LOGITS_OPS[op](tensor.op.inputs[0])


@contextlib.contextmanager
def _recorded(wanted: Sequence[Wanted], tape: tf.GradientTape | None) -> Iterator[_Recorder]:
    recorder = _Recorder(tape)
    sources = {id(item.source): item.source for item in wanted if isinstance(item, OutputOf)}
    with contextlib.ExitStack() as stack:
        for source in sources.values():
            stack.enter_context(replaced(source, "call", recorder.recording(source)))
        yield recorder


def _inputs(x: Any, place: int | str | None) -> list[Any]:
    if place is None:
        return list(tf.nest.flatten(x))
    return [x[place] if isinstance(place, str) else tf.nest.flatten(x)[place]]


def _tensors(item: Wanted, x: Any, recorder: _Recorder) -> list[list[Any]]:
    match item:
        case OutputOf(source):
            return recorder.calls.get(id(source), [])
        case InputOf(place):
            return [_inputs(x, place)]
        case Weight(variable):
            return [[variable]]


def _gradients(
    model: Any, request: GradientsRequest, kept: list[Any], x: Any, y: Any, sample_weight: Any
) -> Found:
    x = tf.nest.map_structure(tf.identity, x)
    optimizer = optimizer_of(model)
    batch = {"x": x, "y": y, "sample_weight": sample_weight, "training": request.training}
    # In a graph a persistent tape makes the one backward pass a fifth slower; see `_on_probabilities`.
    with tf.GradientTape(persistent=tf.executing_eagerly()) as tape:
        for tensor in _watched(x, request.wanted):
            tape.watch(tensor)
        with _recorded(request.wanted, tape) as recorder:
            y_pred = forward(model, x, request.training)
        loss, scale = scaled(optimizer, compiled_loss(model, kept, y_pred=y_pred, **batch))
        found = [_tensors(item, x, recorder) for item in request.wanted]
        flat = [tensor for calls in found for call in calls for tensor in call]
        bypassed = [tensor for tensor in flat if id(tensor) in recorder.bypassed]
        if bypassed:
            plain = tf.nest.map_structure(_without_shortcut, y_pred)
            through, _ = scaled(optimizer, compiled_loss(model, kept, y_pred=plain, **batch))
    groups = _groups(model, flat, recorder.bypassed, request.clip)
    sources = [source for group in groups for source in group]
    gradients = _by_id(sources, tape.gradient(loss, sources) if sources else [])
    if bypassed:
        gradients |= _by_id(bypassed, _on_probabilities(tape, through, bypassed))
        groups[0].extend(bypassed)
    gradients = {key: unscaled(gradient, scale) for key, gradient in gradients.items()}
    if request.clip and optimizer is not None:
        gradients = _clipped(optimizer, gradients, groups)
    return [[[_dense(gradients.get(id(t)), t) for t in call] for call in calls] for calls in found]


def _on_probabilities(tape: tf.GradientTape, loss: Any, probabilities: list[Any]) -> list[Any]:
    """Gradients of the loss as a function of probabilities it would otherwise step over."""
    if tf.executing_eagerly():
        return list(tape.gradient(loss, probabilities))
    return list(tf.gradients(loss, probabilities))


def _groups(model: Any, flat: Sequence[Any], bypassed: set[int], clip: bool) -> list[list[Any]]:
    """What to differentiate by, in the groups that are clipped together: tensors, trained weights, others.

    Under `global_clipnorm` all trained weights share a norm, asked for or not.
    """
    tensors = [t for t in flat if not is_variable(t)]
    tensors = [t for t in tensors if t.dtype.is_floating and id(t) not in bypassed]
    weights = [v for v in flat if is_variable(v)]
    trainable = {id(v): v for v in model.trainable_weights}
    trained = [v for v in weights if id(v) in trainable]
    if trained and clip and _clips_globally(optimizer_of(model)):
        trained = list(trainable.values())
    return [tensors, trained, [v for v in weights if id(v) not in trainable]]


def _watched(x: Any, wanted: Sequence[Wanted]) -> list[Any]:
    inputs = [t for item in wanted if isinstance(item, InputOf) for t in _inputs(x, item.place)]
    # Only trainable variables are watched by themselves.
    weights = [item.variable.value for item in wanted if isinstance(item, Weight)]
    return [*(t for t in inputs if t.dtype.is_floating), *weights]


def _without_shortcut(tensor: Any) -> Any:
    return tf.identity(tensor) if tf.is_tensor(tensor) else tensor


def _by_id(sources: Sequence[Any], gradients: Sequence[Any]) -> dict[int, Any]:
    return {id(source): gradient for source, gradient in zip(sources, gradients, strict=True)}


def _clips_globally(optimizer: Any) -> bool:
    return bool(getattr(inner_optimizer(optimizer), "global_clipnorm", None))


def _clipped(optimizer: Any, gradients: dict[int, Any], groups: Sequence[Sequence[Any]]) -> dict[int, Any]:
    inner = inner_optimizer(optimizer)
    clipped: dict[int, Any] = {}
    for group in groups:
        # Asked for twice, a tensor still counts once in a common norm.
        once = list({id(source): source for source in group}.values())
        clipped |= _by_id(once, inner._clip_gradients([gradients[id(source)] for source in once]))
    return clipped


def _dense(gradient: Any, source: Any) -> Any:
    if gradient is not None:
        return tf.convert_to_tensor(gradient)
    if not tf.as_dtype(source.dtype).is_floating:
        return None
    return tf.zeros(tf.shape(source), source.dtype)
