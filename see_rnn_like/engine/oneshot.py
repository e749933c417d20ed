"""One forward pass, and one backward pass, outside of training: outputs and gradients of chosen layers.

Each request is compiled once per model and kept as long as the model lives and stays as it is. Calling it
changes nothing of the model. `extract` says what to fetch and names what comes back.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import inspect
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf

from see_rnn_like.engine.taps import replaced
from see_rnn_like.engine.untouched import (
    metric_variables,
    state_variables,
    untouched_attributes,
    untouched_variables,
)
from see_rnn_like.models.layout import is_variable

#: Compiled requests kept per model; the one not used for longest goes first.
_KEPT_REQUESTS = 32


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
    request = _Request("outputs", tuple(wanted), training)
    return _run(model, request, (x,))


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
    request = _Request("gradients", tuple(wanted), training, clip)
    return _run(model, request, (x, y, sample_weight))


# -- compiling ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Request:
    kind: str
    wanted: tuple[Wanted, ...]
    training: bool
    clip: bool = False
    #: What the compiled function needs alive besides the model.
    kept: list[Any] = field(default_factory=list, compare=False)

    def key(self) -> Hashable:
        return (self.kind, self.training, self.clip, tuple(_identity(item) for item in self.wanted))


def _identity(item: Wanted) -> Hashable:
    match item:
        case OutputOf(source):
            return ("output", id(source))
        case Weight(variable):
            return ("weight", id(variable))
        case InputOf(place):
            return ("input", place)


@dataclass
class _Programs:
    """What has been compiled for a model in its present form."""

    form: Hashable
    state: list[Any]
    by_request: OrderedDict[Hashable, Callable[..., Found]] = field(default_factory=OrderedDict)


_programs: weakref.WeakKeyDictionary[Any, _Programs] = weakref.WeakKeyDictionary()


def _run(model: Any, request: _Request, data: tuple[Any, ...]) -> Found:
    form = _form(model)
    programs = _programs.get(model)
    if programs is None or programs.form != form:
        programs = _programs[model] = _Programs(form, state_variables(model))
    key = request.key()
    if key not in programs.by_request:
        programs.by_request[key] = _compiled(model, request)
        if len(programs.by_request) > _KEPT_REQUESTS:
            programs.by_request.popitem(last=False)
    programs.by_request.move_to_end(key)
    with untouched_variables([*programs.state, *metric_variables(model)]):
        return programs.by_request[key](*data)


_LOSS_AND_CLIPPING = ("clipnorm", "clipvalue", "global_clipnorm", "loss_scale_factor")


def _form(model: Any) -> Hashable:
    """What a compiled request depends on: it is dropped when any of this changes.

    Plain attributes of every layer are part of it (rates, flags, activations), so that changing one is seen.
    """
    optimizer = _optimizer(model)
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    compiled = (
        _reference(optimizer),
        # A loss scale is a constant until the optimizer is built, then a variable.
        optimizer.built if inner is not optimizer else None,
        tuple(getattr(inner, name, None) for name in _LOSS_AND_CLIPPING),
        _reference(getattr(model, "_compile_loss", None)),
        model.run_eagerly,
        model.trainable,
    )
    layers = tuple(
        (id(layer), _plain_attributes(layer)) for layer in model._flatten_layers(include_self=False)
    )
    return compiled, layers, tuple((id(v), v.trainable) for v in model.variables)


def _optimizer(model: Any) -> Any:
    # A model that has never been compiled lacks the attribute.
    return getattr(model, "optimizer", None)


def _reference(thing: Any) -> Hashable:
    return None if thing is None else weakref.ref(thing)


#: Attributes that change without changing what a layer computes.
_PASSING = frozenset({"_called", "_self_update_uid"})


def _plain_attributes(owner: Any) -> Hashable:
    return tuple(
        (name, value if isinstance(value, bool | int | float | str) else id(value))
        for name, value in vars(owner).items()
        if name not in _PASSING and (isinstance(value, bool | int | float | str) or callable(value))
    )


class _Step:
    """A request as a function of its data.

    It holds the model and its layers weakly, as the cache that keeps it must not keep them alive. An object
    and not a function: TensorFlow counts retracings per code object, and would warn of those of one request
    in the name of another.
    """

    def __init__(self, model: Any, request: _Request) -> None:
        self.__name__ = f"see_rnn_like_{request.kind}"
        self._model = weakref.ref(model)
        self._wanted = tuple(_weakly(item) for item in request.wanted)
        self._kind, self._training, self._clip = request.kind, request.training, request.clip
        self._kept: list[Any] = []

    def __call__(self, *data: Any) -> Found:
        model: Any = self._model()
        wanted = tuple(item() for item in self._wanted)
        # Run eagerly, nothing is needed any more once the call is over.
        kept = [] if tf.executing_eagerly() else self._kept
        request = _Request(self._kind, wanted, self._training, self._clip, kept)
        with untouched_attributes(model._flatten_layers(), kept):
            return _STEPS[self._kind](model, request, *data)


def _compiled(model: Any, request: _Request) -> Callable[..., Found]:
    step = _Step(model, request)
    return step if model.run_eagerly else tf.function(step, autograph=False, reduce_retracing=True)


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


def _forward(model: Any, x: Any, training: bool) -> Any:
    # As Keras's own train_step and predict_step call it.
    return model(x, training=training) if model._call_has_training_arg else model(x)


def _loss(model: Any, request: _Request, x: Any, y: Any, y_pred: Any, sample_weight: Any) -> Any:
    arguments = {"x": x, "y": y, "y_pred": y_pred, "sample_weight": sample_weight}
    # `training` joined the signature in Keras 3.3; overrides may still be without.
    if "training" in inspect.signature(model.compute_loss).parameters:
        arguments["training"] = request.training
    compiled = getattr(model, "_compile_loss", None)
    if compiled is None or compiled.built:
        return model.compute_loss(**arguments)
    # Keras builds the compiled loss at its first use, which adds metrics to the model: build another one.
    another = type(compiled)(
        compiled._user_loss, compiled._user_loss_weights, compiled.reduction, compiled.output_names
    )
    # Its metrics are variables, which a traced function may not make; another thread is not in the trace.
    with concurrent.futures.ThreadPoolExecutor(1) as outside:
        outside.submit(another.build, y, y_pred).result()
    request.kept.append(another)
    with replaced(model, "_compile_loss", another):
        return model.compute_loss(**arguments)


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


def _outputs(model: Any, request: _Request, x: Any) -> Found:
    with _recorded(request.wanted, None) as recorder:
        _forward(model, x, request.training)
    return [_tensors(item, x, recorder) for item in request.wanted]


def _gradients(model: Any, request: _Request, x: Any, y: Any, sample_weight: Any) -> Found:
    x = tf.nest.map_structure(tf.identity, x)
    optimizer = _optimizer(model)
    # In a graph a persistent tape makes the one backward pass a fifth slower; see `_on_probabilities`.
    with tf.GradientTape(persistent=tf.executing_eagerly()) as tape:
        for tensor in _watched(x, request.wanted):
            tape.watch(tensor)
        with _recorded(request.wanted, tape) as recorder:
            y_pred = _forward(model, x, request.training)
        loss, scale = _scaled(optimizer, _loss(model, request, x, y, y_pred, sample_weight))
        found = [_tensors(item, x, recorder) for item in request.wanted]
        flat = [tensor for calls in found for call in calls for tensor in call]
        bypassed = [tensor for tensor in flat if id(tensor) in recorder.bypassed]
        if bypassed:
            plain = tf.nest.map_structure(_without_shortcut, y_pred)
            through, _ = _scaled(optimizer, _loss(model, request, x, y, plain, sample_weight))
    groups = _groups(model, flat, recorder.bypassed, request.clip)
    sources = [source for group in groups for source in group]
    gradients = _by_id(sources, tape.gradient(loss, sources) if sources else [])
    if bypassed:
        gradients |= _by_id(bypassed, _on_probabilities(tape, through, bypassed))
        groups[0].extend(bypassed)
    gradients = {key: _unscaled(gradient, scale) for key, gradient in gradients.items()}
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
    if trained and clip and _clips_globally(_optimizer(model)):
        trained = list(trainable.values())
    return [tensors, trained, [v for v in weights if id(v) not in trainable]]


def _watched(x: Any, wanted: Sequence[Wanted]) -> list[Any]:
    inputs = [t for item in wanted if isinstance(item, InputOf) for t in _inputs(x, item.place)]
    # Only trainable variables are watched by themselves.
    weights = [item.variable.value for item in wanted if isinstance(item, Weight)]
    return [*(t for t in inputs if t.dtype.is_floating), *weights]


def _without_shortcut(tensor: Any) -> Any:
    return tf.identity(tensor) if tf.is_tensor(tensor) else tensor


def _scaled(optimizer: Any, loss: Any) -> tuple[Any, Any]:
    """The loss as the train step differentiates it, and the factor it was multiplied by (None for 1)."""
    if optimizer is None:
        return loss, None
    one = tf.ones((), loss.dtype)
    scale = optimizer.scale_loss(one)
    return (loss, None) if scale is one else (optimizer.scale_loss(loss), scale)


def _by_id(sources: Sequence[Any], gradients: Sequence[Any]) -> dict[int, Any]:
    return {id(source): gradient for source, gradient in zip(sources, gradients, strict=True)}


def _unscaled(gradient: Any, scale: Any) -> Any:
    """Divides the loss scale out, in float32: what was scaled may be too small for float16 without."""
    if gradient is None or scale is None:
        return gradient
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(_unscaled(gradient.values, scale), gradient.indices, gradient.dense_shape)
    wide = tf.cast(gradient, tf.float32) if gradient.dtype.size < 4 else gradient
    return wide / tf.cast(scale, wide.dtype)


def _clips_globally(optimizer: Any) -> bool:
    return bool(getattr(getattr(optimizer, "inner_optimizer", optimizer), "global_clipnorm", None))


def _clipped(optimizer: Any, gradients: dict[int, Any], groups: Sequence[Sequence[Any]]) -> dict[int, Any]:
    inner = getattr(optimizer, "inner_optimizer", optimizer)
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


_STEPS: dict[str, Callable[..., Found]] = {"outputs": _outputs, "gradients": _gradients}
