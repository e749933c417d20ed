"""Taps: seeing what passes through a layer or an optimizer while a train step is traced, and only then.

A tap replaces one method on one instance inside a `with` block and puts back what was there, also
after an exception. What passes is handed on unchanged.
"""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import tensorflow as tf

from see_rnn_like.models.layout import OutputPoint

_Kind = TypeVar("_Kind")


class ByReplica(Generic[_Kind]):
    """One of a kind for each replica; replicas are traced in threads of their own.

    Args:
        make: makes one, for a replica that asks for the first time.
    """

    def __init__(self, make: Callable[[], _Kind]) -> None:
        self._make = make
        self._made: dict[int, _Kind] = {}

    @property
    def here(self) -> _Kind:
        """That of the replica that is asking."""
        replica = tf.get_static_value(tf.distribute.get_replica_context().replica_id_in_sync_group)
        return self._made.setdefault(int(replica), self._make())

    @property
    def first(self) -> _Kind:
        """That of the first replica of this process."""
        return self._made[min(self._made)]


@dataclass
class TappedOutput:
    """One floating-point tensor that left a layer.

    Attributes:
        point: the layer it left.
        role: ``output``; further tensors of one call are ``output_1``, …; further calls of a shared
            layer append ``@1``, ….
        index: which tensor of the call it is.
        value: the tensor.
        passed: the tensor the model goes on with.
        gradients: dL/d(value) of each backward pass that came by.
    """

    point: OutputPoint
    role: str
    index: int
    value: Any
    passed: Any = None
    gradients: list[Any] = field(default_factory=list)

    @property
    def mask(self) -> Any:
        """The mask Keras sends along, which it attaches after the layer's `call`; None without."""
        return getattr(self.passed, "_keras_mask", None)


@dataclass
class OutputTaps:
    """Collects `TappedOutput`s in the order the layers were called.

    Attributes:
        seen: the outputs.
        calls: how often each layer was called, by its id.
        failure: the first error in here; what failed is then not tapped, and the model goes on.
    """

    seen: list[TappedOutput] = field(default_factory=list)
    calls: Counter[int] = field(default_factory=Counter)
    failure: Exception | None = None

    def record(self, point: OutputPoint, outputs: Any) -> Any:
        """Records what a layer returned and returns what the model must go on with."""
        try:
            return self._tapped(point, outputs)
        except Exception as error:
            # Not raised: the trace must be completed, or variables made in it are never initialised.
            self.failure = self.failure or error
            return outputs

    def noting(self, output: TappedOutput) -> Callable[[Any], None]:
        """Who takes the gradients of an output as they come by."""
        return output.gradients.append

    def _tapped(self, point: OutputPoint, outputs: Any) -> Any:
        call = self.calls[id(point.source)]
        self.calls[id(point.source)] += 1
        flat = tf.nest.flatten(outputs)
        tapped = [self._tap(point, tensor, index, call) for index, tensor in enumerate(flat)]
        return tf.nest.pack_sequence_as(outputs, tapped)

    def _tap(self, point: OutputPoint, tensor: Any, index: int, call: int) -> Any:
        if not isinstance(tensor, tf.Tensor) or not tensor.dtype.is_floating:
            return tensor
        output = TappedOutput(point, numbered_role("output", index, call), index, tensor)
        logits = logits_of(tensor)
        if logits is None:
            output.passed = observed(tensor, self.noting(output))
            self.seen.append(output)
        else:
            # Keras's cross-entropies go from these logits, not from the probabilities: this is where the
            # gradient comes by.
            before = TappedOutput(point, numbered_role("logits", index, call), index, logits)
            note, note_logits = self.noting(output), self.noting(before)
            output.passed = observed_head(tensor, note, logits, note_logits)
            self.seen += [output, before]
        return output.passed


def observed(tensor: Any, note: Callable[[Any], None]) -> Any:
    """An identity that tells the gradient that comes by in the backward pass, and carries a mask along.

    Args:
        tensor: a floating-point tensor.
        note: receives the gradient.
    """

    @tf.custom_gradient
    def identity(tensor: Any) -> tuple[Any, Callable[[Any], Any]]:
        def noted(upstream: Any) -> Any:
            note(upstream)
            return upstream

        return tf.identity(tensor), noted

    return _masked_like(tensor, identity(tensor))


def observed_head(
    tensor: Any, note: Callable[[Any], None], logits: Any, note_logits: Callable[[Any], None]
) -> Any:
    """A softmax or sigmoid output, observed, in which Keras's losses still find the logits.

    Keras leaves them on the tensor as `_keras_logits`; without that mark its losses look whether the
    tensor comes straight from a Softmax or Sigmoid op (`keras/src/backend/tensorflow/nn.py`, _get_logits).

    Args:
        tensor: the output.
        note: receives its gradient.
        logits: what `logits_of` found for it.
        note_logits: receives the gradient of the logits.
    """
    seen = observed(logits, note_logits)
    if hasattr(tensor, "_keras_logits"):
        result = observed(tensor, note)
        result._keras_logits = seen
        return result
    return _masked_like(tensor, _ACTIVATION_OPS[tensor.op.type](seen))


_ACTIVATION_OPS: dict[str, Callable[[Any], Any]] = {"Softmax": tf.nn.softmax, "Sigmoid": tf.sigmoid}


def logits_of(tensor: Any) -> Any:
    """The logits that Keras's cross-entropies take in the place of a probability; None without."""
    marked = getattr(tensor, "_keras_logits", None)
    if marked is None and tf.is_symbolic_tensor(tensor) and tensor.op.type in _ACTIVATION_OPS:
        return tensor.op.inputs[0]
    return marked


def _masked_like(tensor: Any, result: Any) -> Any:
    mask = getattr(tensor, "_keras_mask", None)
    if mask is not None:
        # Keras carries masks on the tensor itself; layers after this one must still find theirs.
        result._keras_mask = mask
    return result


def current_graph() -> Any:
    """The graph that is being traced; None where everything runs eagerly."""
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()


def values_of(tensor: Any) -> Any:
    """The values of a tensor that may be sparse."""
    return tensor.values if isinstance(tensor, tf.IndexedSlices) else tensor


def numbered_role(name: str, index: int, call: int) -> str:
    """The role of a tensor: further ones of a call append ``_1``, …, those of further calls ``@1``, …."""
    return name + (f"_{index}" if index else "") + (f"@{call}" if call else "")


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Puts `value`, mostly a method, in the place of `owner.name` on this instance while the block runs.

    Attributes are set below Keras's own `__setattr__`, which would start tracking them.
    """
    missing = object()
    before = vars(owner).get(name, missing)
    object.__setattr__(owner, name, value)
    try:
        yield
    finally:
        if before is missing:
            object.__delattr__(owner, name)
        else:
            object.__setattr__(owner, name, before)


@contextlib.contextmanager
def tapped_outputs(points: Sequence[OutputPoint]) -> Iterator[ByReplica[OutputTaps]]:
    """Records the outputs, and in the backward pass their gradients, of layers called in the block.

    Args:
        points: the layers to watch.

    Yields:
        The collections; gradients are filled in when the tape's gradient is taken inside the block.
    """
    taps = ByReplica(OutputTaps)
    with contextlib.ExitStack() as stack:
        for point in points:
            stack.enter_context(replaced(point.source, "call", _recording_call(point, taps)))
        yield taps


def _recording_call(point: OutputPoint, taps: ByReplica[OutputTaps]) -> Callable[..., Any]:
    call = point.source.call

    @functools.wraps(call)
    def recorded(*args: Any, **kwargs: Any) -> Any:
        return taps.here.record(point, call(*args, **kwargs))

    return recorded


@dataclass
class GradientTaps:
    """Collects the gradients an optimizer is given, as it is given them."""

    received: list[tuple[Any, Any]] = field(default_factory=list)

    def record(self, grads: Any, variables: Any) -> None:
        """Notes pairs of gradient and variable."""
        self.received.extend(zip(grads, variables, strict=True))


@contextlib.contextmanager
def tapped_gradients(optimizer: Any) -> Iterator[ByReplica[GradientTaps]]:
    """Records what `optimizer.apply` (and so `apply_gradients`) receives in the block.

    Args:
        optimizer: a Keras 3 optimizer; under loss scaling the outer one, whose gradients are scaled.
    """
    taps = ByReplica(GradientTaps)
    apply = optimizer.apply

    @functools.wraps(apply)
    def recorded(grads: Any, trainable_variables: Any = None) -> Any:
        grads = list(grads)
        if trainable_variables is None:
            taps.here.record(grads, optimizer._trainable_variables)
            return apply(grads)
        # Either may be a generator, which gives its items once.
        variables = list(trainable_variables)
        taps.here.record(grads, variables)
        return apply(grads, variables)

    with replaced(optimizer, "apply", recorded):
        yield taps


@dataclass
class ScaleTap:
    """The factor the loss was multiplied by; None if it was not scaled."""

    factor: Any = None


@contextlib.contextmanager
def tapped_scale(optimizer: Any) -> Iterator[ByReplica[ScaleTap]]:
    """Notes by what `optimizer.scale_loss` multiplies the loss, if the block calls it at all."""
    taps = ByReplica(ScaleTap)
    scale_loss = optimizer.scale_loss

    @functools.wraps(scale_loss)
    def recorded(loss: Any) -> Any:
        taps.here.factor = loss_scale(optimizer)
        return scale_loss(loss)

    with replaced(optimizer, "scale_loss", recorded):
        yield taps


def loss_scale(optimizer: Any) -> Any:
    """By what `optimizer.scale_loss` multiplies the loss now; None for an optimizer that does not."""
    if hasattr(optimizer, "inner_optimizer"):
        # A LossScaleOptimizer makes its variable when it is built, by the first step.
        return tf.identity(optimizer.dynamic_scale) if optimizer.built else optimizer.initial_scale
    return optimizer.loss_scale_factor


@dataclass
class LossTaps:
    """Collects the losses the model computes."""

    seen: list[Any] = field(default_factory=list)


@contextlib.contextmanager
def tapped_loss(model: Any) -> Iterator[ByReplica[LossTaps]]:
    """Records what `model.compute_loss` returns in the block, regularisation included."""
    taps = ByReplica(LossTaps)
    compute_loss = model.compute_loss

    @functools.wraps(compute_loss)
    def recorded(*args: Any, **kwargs: Any) -> Any:
        loss = compute_loss(*args, **kwargs)
        taps.here.seen.append(loss)
        return loss

    with replaced(model, "compute_loss", recorded):
        yield taps
