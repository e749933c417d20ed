"""Steps of a training loop of one's own: what comes by between two updates, and what becomes of it.

The taps live as long as the loop does. Inside a trace, on other threads, and on steps that are not due
they only pass on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from see_rnn_like.engine.clipping import Pair, collect_applied, note_not_applied, received_by
from see_rnn_like.engine.collect import (
    Collected,
    Note,
    collect_losses,
    collect_output_gradients,
    collect_outputs,
    collect_weight_gradients,
    scale_attrs,
    weight_info,
)
from see_rnn_like.engine.native import inner_optimizer, step_counter
from see_rnn_like.engine.recording import Reading, Recording
from see_rnn_like.engine.taps import (
    GradientTaps,
    LossTaps,
    OutputTaps,
    TappedOutput,
    loss_scale,
    numbered_role,
    observed,
    replaced,
)
from see_rnn_like.engine.train_step import gradient_attrs, learning_rate
from see_rnn_like.errors import ArgumentError, ArgumentTypeError, CaptureError
from see_rnn_like.labels import TensorKey
from see_rnn_like.models.layout import OutputPoint, WeightSlot, is_variable, select, sites


@dataclass
class PassTaps(OutputTaps):
    """What the layers put out in one outermost call of the model, or of a layer.

    Attributes:
        inference: whether it was called with ``training=False``.
        arrived: takes this pass whenever a gradient comes through it.
    """

    inference: bool = False
    arrived: Callable[[PassTaps], None] = lambda _: None

    def noting(self, output: TappedOutput) -> Callable[[Any], None]:
        """Who takes the gradients of an output as they come by."""

        def note(gradient: Any) -> None:
            output.gradients.append(gradient)
            self.arrived(self)

        return note


@dataclass
class Window:
    """What came by since the last update.

    Only a gradient makes a forward pass one of the training: of what no gradient came through, an
    evaluation say, nothing is kept, nor kept alive.

    Attributes:
        passes: by the order in which they began.
        losses: what `model.compute_loss` returned, by the same order.
        scale: by what the loss was multiplied; None if it was not.
    """

    passes: dict[int, PassTaps] = field(default_factory=dict)
    losses: dict[int, Any] = field(default_factory=dict)
    scale: Any = None
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def new_pass(self, inference: bool) -> PassTaps:
        """The taps of a forward pass that begins."""
        return PassTaps(inference=inference, arrived=functools.partial(self._arrived, next(self._numbers)))

    def _arrived(self, number: int, taps: PassTaps) -> None:
        self.passes[number] = taps

    def seen_loss(self, loss: Any) -> Any:
        """Takes a loss; returns what the loop must go on with."""
        if not isinstance(loss, tf.Tensor) or not loss.dtype.is_floating:
            return loss
        number = next(self._numbers)
        return observed(loss, lambda _: self.losses.__setitem__(number, loss))

    def outputs(self) -> OutputTaps:
        """The outputs of the forward passes that were trained on, numbered through.

        Those in inference mode count only if there is no other: what was looked at beside the training
        (a saliency map) is not part of it.
        """
        passes = [self.passes[number] for number in sorted(self.passes)]
        trained = [taps for taps in passes if not taps.inference] or passes
        whole = OutputTaps()
        for taps in trained:
            whole.seen += [_numbered_on(o, whole.calls[id(o.point.source)]) for o in taps.seen]
            whole.calls.update(taps.calls)
            whole.failure = whole.failure or taps.failure
        return whole


def _numbered_on(output: TappedOutput, calls: int) -> TappedOutput:
    """The output under the role it has after so many calls of its layer in passes before."""
    name, _, call = output.role.partition("@")
    return dataclasses.replace(output, role=numbered_role(name, 0, int(call or 0) + calls))


class EagerTaps:
    """Sees what a loop of one's own does to a model, step by step.

    Args:
        model: compiled.
        points: the layers whose outputs are to be seen.
        update: the context in which each update by the optimizer runs; it takes gradients and variables,
            None if the next update is not due.

    Attributes:
        window: what came by since the last update; None if the next one is not due.
    """

    def __init__(
        self,
        model: Any,
        points: Sequence[OutputPoint],
        update: Callable[[list[Pair] | None], AbstractContextManager[None]],
    ) -> None:
        self.model = model
        self.window: Window | None = None
        self._points = {id(point.source): point for point in points}
        self._update = update
        self._pass: PassTaps | None = None
        self._muted = False
        self._thread = threading.get_ident()

    @contextlib.contextmanager
    def placed(self) -> Iterator[None]:
        """Has the taps in place while the block runs."""
        optimizer = self.model.optimizer
        with contextlib.ExitStack() as stack:
            for layer in self._callable_layers():
                stack.enter_context(replaced(layer, "call", self._watched_call(layer)))
            stack.enter_context(replaced(self.model, "compute_loss", self._watched_loss()))
            stack.enter_context(replaced(optimizer, "scale_loss", self._watched_scale(optimizer)))
            stack.enter_context(replaced(optimizer, "apply", self._watched_apply(optimizer)))
            yield

    @contextlib.contextmanager
    def muted(self) -> Iterator[None]:
        """Sees nothing while the block runs."""
        before, self._muted = self._muted, True
        try:
            yield
        finally:
            self._muted = before

    def _callable_layers(self) -> list[Any]:
        """Those that a loop may call, and those whose outputs are to be seen."""
        models = [layer for layer in self.model._flatten_layers() if isinstance(layer, keras.Model)]
        layers = [*models, *(site.layer for site in sites(self.model))]
        layers += [point.source for point in self._points.values()]
        return list({id(layer): layer for layer in layers}.values())

    def _active(self) -> bool:
        return not self._muted and tf.executing_eagerly() and threading.get_ident() == self._thread

    def _watched_call(self, layer: Any) -> Callable[..., Any]:
        call, point = layer.call, self._points.get(id(layer))

        @functools.wraps(call)
        def watched(*args: Any, **kwargs: Any) -> Any:
            if self.window is None or not self._active():
                return call(*args, **kwargs)
            with self._within_pass(kwargs.get("training") is False) as taps:
                outputs = call(*args, **kwargs)
                return outputs if point is None else taps.record(point, outputs)

        return watched

    @contextlib.contextmanager
    def _within_pass(self, inference: bool) -> Iterator[PassTaps]:
        """The forward pass that is under way; an outermost call begins one."""
        if self._pass is not None:
            yield self._pass
            return
        assert self.window is not None
        self._pass = self.window.new_pass(inference)
        try:
            yield self._pass
        finally:
            self._pass = None

    def _watched_loss(self) -> Callable[..., Any]:
        compute_loss = self.model.compute_loss

        @functools.wraps(compute_loss)
        def watched(*args: Any, **kwargs: Any) -> Any:
            loss = compute_loss(*args, **kwargs)
            return self.window.seen_loss(loss) if self.window is not None and self._active() else loss

        return watched

    def _watched_scale(self, optimizer: Any) -> Callable[[Any], Any]:
        scale_loss = optimizer.scale_loss

        @functools.wraps(scale_loss)
        def watched(loss: Any) -> Any:
            if self.window is not None and self._active():
                self.window.scale = loss_scale(optimizer)
            return scale_loss(loss)

        return watched

    def _watched_apply(self, optimizer: Any) -> Callable[..., Any]:
        apply = optimizer.apply

        @functools.wraps(apply)
        def watched(grads: Any, trainable_variables: Any = None) -> Any:
            if not self._active():
                return apply(grads, trainable_variables)
            if self.window is None:
                with self._update(None):
                    return apply(grads, trainable_variables)
            # Either may be a generator, which gives its items once.
            grads = list(grads)
            if trainable_variables is not None:
                trainable_variables = list(trainable_variables)
            variables = optimizer._trainable_variables if trainable_variables is None else trainable_variables
            with self._update(list(zip(grads, variables, strict=False))):
                return apply(grads, trainable_variables)

        return watched


@dataclass(frozen=True)
class Before:
    """What a training was before a step.

    Attributes:
        step: its step counter.
        rate: the learning rate of the step.
        scale: the factor of loss scaling; None without.
        weights: variable, by its id → value.
    """

    step: Any
    rate: Any
    scale: Any
    weights: dict[int, Any]


class LoopSteps:
    """Puts together what is known of the steps of a loop of one's own.

    Args:
        model: compiled.
        layers: the layers to record, as `models.layout.select` takes them; None for all.
        capture: what to record, of `train_step.CAPTURES`.
        level: as for `InstrumentedStep`.
    """

    def __init__(self, model: Any, layers: Any, capture: Collection[str], level: str) -> None:
        self.model = model
        self.layers = layers
        self.capture = frozenset(capture)
        self.level = level
        self._optimizer = model.optimizer

    @property
    def may_skip(self) -> bool:
        """Whether an update may be skipped and not counted, as loss scaling does it."""
        return hasattr(self._optimizer, "inner_optimizer")

    @property
    def points(self) -> list[OutputPoint]:
        """The layers whose outputs are to be recorded."""
        if not self.capture & {"outputs", "output_gradients"}:
            return []
        return [point for site in select(sites(self.model), self.layers) for point in site.outputs]

    def count(self) -> int:
        """How many steps the optimizer has counted.

        Raises:
            CaptureError: if the model has got another optimizer.
        """
        if self.model.optimizer is not self._optimizer:
            raise CaptureError(
                "the model has been compiled anew inside of the block: leave the block before, enter it after"
            )
        return int(step_counter(self.model.optimizer).numpy())

    def before(self) -> Before:
        """What the training is now; reading shares a variable's buffer, which is copied when written."""
        watched = self._slots() if self.capture & {"weights", "updates"} else []
        weights = {id(slot.variable): tf.identity(slot.variable.value) for slot in watched}
        optimizer = self.model.optimizer
        return Before(
            tf.identity(step_counter(optimizer)), learning_rate(optimizer), loss_scale(optimizer), weights
        )

    def seen(self, held: Before, now: Before, pairs: Sequence[Pair]) -> Before:
        """What the training was before a step of which one sees the update begin.

        Args:
            held: what it was after the step before.
            now: what it is right before the update.
            pairs: what the optimizer is given.

        Returns:
            The weights that are updated, as they are now; others, which the forward pass may have changed
            (statistics of BatchNorm, states), as they were.
        """
        updated = {id(variable) for _, variable in pairs}
        weights = held.weights | {name: value for name, value in now.weights.items() if name in updated}
        return dataclasses.replace(now, weights=weights)

    def rate_of_last(self, held: Before) -> Any:
        """The learning rate of the step just taken: of a schedule that before it, else the one there is."""
        inner = inner_optimizer(self.model.optimizer)
        schedules = keras.optimizers.schedules.LearningRateSchedule
        if isinstance(getattr(inner, "_learning_rate", None), schedules):
            return held.rate
        return learning_rate(inner)

    def recording(
        self,
        start: float,
        before: Before,
        pairs: Sequence[Pair],
        scale: Any,
        outputs: OutputTaps | None,
        losses: Sequence[Any],
    ) -> Recording:
        """The recording of a step that has just been taken.

        Args:
            start: when recording it began, of `time.perf_counter`.
            before: what the training was before.
            pairs: what the optimizer was given.
            scale: the factor in the gradients; None if they are not scaled.
            outputs: of the step's forward passes; None if they were not in sight.
            losses: those of the step.
        """
        whole, slots = Collected(), self._slots()
        if "weights" in self.capture:
            self._collect_weights(whole, slots, before.weights)
        if outputs is not None and outputs.failure is not None:
            raise outputs.failure
        if outputs is not None and "outputs" in self.capture:
            collect_outputs(whole, outputs, self._called(whole, outputs))
        self._collect_losses(whole, losses)
        if outputs is not None and "output_gradients" in self.capture:
            collect_output_gradients(whole, outputs, scale)
        if outputs is None and self.capture & {"outputs", "output_gradients"}:
            whole.notes.append(Note("not-recorded", None, _OUT_OF_SIGHT))
        if "gradients" in self.capture:
            received = GradientTaps([(dense(gradient), variable) for gradient, variable in pairs])
            optimizer = self.model.optimizer
            attrs = gradient_attrs(optimizer) | scale_attrs(scale)
            collect_weight_gradients(whole, received, slots, scale, attrs)
            note_not_applied(whole, optimizer, several=False)
            clipped = received_by(optimizer, GradientTaps(list(pairs)), scale)
            collect_applied(whole, optimizer, clipped, slots, attrs)
        if "updates" in self.capture:
            self._collect_updates(whole, slots, before.weights)
        after = tf.identity(step_counter(self.model.optimizer))
        reading = Reading(whole, self.level)
        return reading.read(start, (before.step, after, before.rate), reading.reduced)

    def _slots(self) -> list[WeightSlot]:
        return [slot for site in select(sites(self.model), self.layers) for slot in site.weights]

    def _called(self, whole: Collected, outputs: OutputTaps) -> list[OutputPoint]:
        """The points that were called in training; notes the others."""
        called = [point for point in self.points if outputs.calls[id(point.source)]]
        for point in self.points:
            if not outputs.calls[id(point.source)]:
                key = TensorKey(point.layer, point.direction, "output", "value")
                whole.leave_out("not-recorded", key, _NO_PASS)
        return called

    def _collect_weights(self, whole: Collected, slots: list[WeightSlot], weights: dict[int, Any]) -> None:
        for slot in slots:
            if id(slot.variable) in weights:
                whole.keep(weight_info(slot, "weight", {}), weights[id(slot.variable)])
            else:
                whole.leave_out("not-recorded", slot.key("weight"), _JUST_MADE)

    def _collect_losses(self, whole: Collected, losses: Sequence[Any]) -> None:
        collect_losses(whole, LossTaps(list(losses)))
        if not losses:
            whole.leave_out("not-recorded", TensorKey("", None, "loss", "value"), _NO_LOSS)

    def _collect_updates(self, whole: Collected, slots: list[WeightSlot], weights: dict[int, Any]) -> None:
        for slot in slots:
            if id(slot.variable) in weights:
                update = tf.identity(slot.variable.value) - weights[id(slot.variable)]
                whole.keep(weight_info(slot, "update", {}), update)


def fitting(gradients: Any, variables: Any) -> list[Pair]:
    """Pairs gradients with their variables.

    Args:
        gradients: a tensor, `tf.IndexedSlices` or None for each variable.
        variables: Keras variables.

    Raises:
        ArgumentError: if they do not fit in number or shape, or are those of a trace.
        ArgumentTypeError: if they are something else.
    """
    if not tf.executing_eagerly():
        raise ArgumentError("record_step was called inside of a tf.function: call it after, with its results")
    gradients, variables = _listed("gradients", gradients), _listed("variables", variables)
    if len(gradients) != len(variables):
        raise ArgumentError(
            f"there are {len(gradients)} gradients for {len(variables)} variables; give one per variable "
            "(None for none) in the order of model.trainable_variables, or name the variables"
        )
    return [(_fitting(g, v), v) for g, v in zip(gradients, variables, strict=True)]


def _listed(what: str, given: Any) -> list[Any]:
    if isinstance(given, str | dict | tf.Tensor | np.ndarray) or not isinstance(given, Iterable):
        raise ArgumentTypeError(f"{what} must be a list; got {type(given).__name__}")
    return list(given)


def _fitting(gradient: Any, variable: Any) -> Any:
    if not is_variable(variable):
        raise ArgumentTypeError(
            "variables must be Keras variables such as model.trainable_variables; got "
            f"{type(variable).__name__}"
        )
    if gradient is None:
        return None
    if not isinstance(gradient, tf.Tensor | tf.IndexedSlices | np.ndarray):
        raise ArgumentTypeError(
            f"the gradient of {variable.path} must be a tensor, tf.IndexedSlices or None; got "
            f"{type(gradient).__name__}"
        )
    expected = tuple(variable.shape)
    if isinstance(gradient, tf.IndexedSlices):
        shape = (expected[0], *gradient.values.shape[1:])
    else:
        shape = tuple(gradient.shape)
    if shape != expected:
        raise ArgumentError(
            f"the gradient of {variable.path} must have its shape {expected}; got {shape}: gradients go in "
            "the order of model.trainable_variables, or of the variables named"
        )
    if isinstance(gradient, tf.IndexedSlices) and gradient.dense_shape is None:
        return tf.IndexedSlices(gradient.values, gradient.indices, expected)
    return gradient


def as_loss(loss: Any) -> Any:
    """A loss as a floating-point tensor.

    Raises:
        ArgumentTypeError: if it is not a number or an array of numbers.
    """
    try:
        tensor = tf.convert_to_tensor(loss)
    except (TypeError, ValueError):
        tensor = None
    if tensor is None or not (tensor.dtype.is_floating or tensor.dtype.is_integer):
        raise ArgumentTypeError(f"loss must be a number or an array of numbers; got {loss!r}")
    return tensor if tensor.dtype.is_floating else tf.cast(tensor, tf.float32)


def dense(gradient: Any) -> Any:
    """A gradient as one tensor; None stays None."""
    return None if gradient is None else tf.convert_to_tensor(gradient)


_OUT_OF_SIGHT = (
    "outputs of layers and their gradients are not recorded: the steps handed to record_step are compiled "
    "in a tf.function of one's own, out of sight"
)
_NO_PASS = "no gradient came through a call of the layer since the update before"
_JUST_MADE = "the variable was made by this very step"
_NO_LOSS = "the loop computed it itself: compute it by model.compute_loss, or hand it to record_step"
