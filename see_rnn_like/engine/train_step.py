"""The instrumented train step: the model's own `train_step`, compiled a second time with taps on.

It is called in place of Keras's train function on the steps that are due. Weights, updates, loss,
outputs and gradients come from the one forward and the one backward pass of the training itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
import zlib
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from see_rnn_like.engine import native
from see_rnn_like.engine.aside import aside
from see_rnn_like.engine.clipping import (
    Pair,
    accumulates,
    clips_of,
    collect_applied,
    note_not_applied,
    received_by,
)
from see_rnn_like.engine.collect import (
    Collected,
    Note,
    collect_losses,
    collect_output_gradients,
    collect_outputs,
    collect_weight_gradients,
    leave_out_scalars,
    scale_attrs,
    weight_info,
)
from see_rnn_like.engine.guarded import GuardedStep, Verdict
from see_rnn_like.engine.native import data_of, inner_optimizer, step_counter
from see_rnn_like.engine.recording import Reading, Recording
from see_rnn_like.engine.replicas import Shares
from see_rnn_like.engine.taps import (
    ByReplica,
    GradientTaps,
    LossTaps,
    OutputTaps,
    ScaleTap,
    tapped_gradients,
    tapped_loss,
    tapped_outputs,
    tapped_scale,
)
from see_rnn_like.engine.watch import Watch
from see_rnn_like.engine.workers import are_several, told_by_all
from see_rnn_like.errors import ArgumentError, CaptureError
from see_rnn_like.models.layout import OutputPoint, WeightSlot, select, sites

#: What can be captured, in the order in which a train step makes it.
CAPTURES = ("weights", "outputs", "output_gradients", "gradients", "updates")

#: How several replicas may be trained.
_STRATEGIES = (tf.distribute.MirroredStrategy, tf.distribute.MultiWorkerMirroredStrategy)


@dataclass
class _Taps:
    """The taps on a train step, by replica; empty ones for what is not captured."""

    outputs: ByReplica[OutputTaps] = field(default_factory=lambda: ByReplica(OutputTaps))
    gradients: ByReplica[GradientTaps] = field(default_factory=lambda: ByReplica(GradientTaps))
    losses: ByReplica[LossTaps] = field(default_factory=lambda: ByReplica(LossTaps))
    scale: ByReplica[ScaleTap] = field(default_factory=lambda: ByReplica(ScaleTap))
    watch: Watch | None = None


class InstrumentedStep:
    """Runs one training step of a model with everything asked for recorded.

    Under a strategy of several replicas what is recorded describes the global batch, see `replicas`.

    Args:
        model: compiled; built at the latest by the first batch.
        layers: the layers to record, as `models.layout.select` takes them; None for all.
        capture: what to record, of `CAPTURES`; the loss always is.
        level: how much is kept of every tensor, of `recording.LEVELS`.

    Raises:
        ArgumentError: if the model is not compiled, or is trained by a strategy that is not known.
    """

    def __init__(self, model: Any, layers: Any, capture: Collection[str], level: str) -> None:
        require_recordable(model)
        strategy = model.distribute_strategy
        self.model = model
        self._several = strategy.num_replicas_in_sync > 1
        self._several_workers = are_several(strategy)
        self._is_over = False
        self.withdrawn: Exception | None = None
        self.layers = layers
        self.capture = frozenset(capture)
        self.level = level
        self.failure: Exception | None = None
        self._slots: list[WeightSlot] = []
        self._points: list[OutputPoint] = []
        self._guard: GuardedStep | None = None
        self._signatures: list[Any] = []
        self._traces: list[_Trace] = []
        self._spec: Any = None
        self._collected = Collected()
        self._reading: Reading | None = None
        self._tracing = 0.0
        self._function: Callable[[Any], Any] = self._recorded_step
        self._taps = _Taps()
        # All that the optimizer clips together, of the step that is being traced.
        self._received: list[Pair] = []
        self._received_attrs: dict[str, Any] = {}
        self._tapped_step = native.compiled(model, self._tapped, self._tapping)
        self._eagerly = bool(model.run_eagerly)
        self._plain = _on_batch(model, native.compiled(model, model.train_step))
        if not self._eagerly:
            self._plain = tf.function(self._plain, reduce_retracing=True)

    def trace(self, iterator: Any, guard: GuardedStep | None = None) -> None:
        """Compiles the step for what `iterator` yields, unless that has been done. Runs nothing.

        Args:
            iterator: the `tf.data` iterator Keras hands to its train function.
            guard: undoes the step if it is not finite; prepared.

        Raises:
            CaptureError: if the step cannot be traced with taps on, here or on another worker.
        """
        if not self._several_workers:
            self._choose(iterator, guard)
            return
        failure = self.withdrawn
        try:
            if failure is None:
                self._choose(iterator, guard)
        except CaptureError as error:
            failure = error
        self._agree(failure)

    def withdraw(self, error: Exception) -> bool:
        """Gives up recording; with several workers not before they all know, as they wait for one another.

        Args:
            error: the reason, raised by the next `trace`.

        Returns:
            Whether it is over at once.
        """
        if not self._several_workers or self._is_over:
            return True
        self.withdrawn = self.withdrawn or error
        return False

    def _agree(self, failure: Exception | None) -> None:
        """Makes sure that all workers are about to exchange the same tensors, or none."""
        layout = "\n".join(str(info.key) for info in self._collected.infos) + self.level
        told = told_by_all(
            self.model.distribute_strategy, 1 + zlib.crc32(layout.encode()) if failure is None else 0
        )
        if failure is None and len(set(told)) > 1:
            failure = CaptureError(
                "another worker cannot record this step, or records something else of it: its log says why; "
                "every worker needs a monitor with the same arguments"
            )
        if failure is not None:
            self._is_over = True
            raise failure if isinstance(failure, CaptureError) else CaptureError(str(failure)) from failure

    def _choose(self, iterator: Any, guard: GuardedStep | None) -> None:
        if guard is not self._guard:
            self._guard, self._signatures, self._traces, self._spec = guard, [], [], None
        if iterator.element_spec is self._spec:
            return
        spec = self.signature(iterator.element_spec)
        known = next((trace for trace in self._traces if trace.spec == spec), None)
        if known is None:
            start = time.perf_counter()
            known = self._traced(spec)
            self._traces.append(known)
            self._tracing = time.perf_counter() - start
        self._function, self._collected, self._reading = known.function, known.collected, known.reading
        self._spec = iterator.element_spec

    def signature(self, spec: Any) -> Any:
        """For which kind of batch the compiled function was made that Keras runs on a batch like this.

        To be told of batches that Keras's own function takes, too: it is compiled for the very sizes that
        come, then ever wider, and with other static sizes the same step may be rounded otherwise.

        Args:
            spec: specs of the batch.
        """
        found = _narrowest(self._signatures, spec)
        if found is None:
            found = functools.reduce(_covering, self._signatures, spec)
            self._signatures.append(found)
        return found

    def _traced(self, spec: Any) -> _Trace:
        if hasattr(self.model.train_step, "get_concrete_function"):
            raise CaptureError(
                "train_step is a tf.function, which hides what happens in it; Keras compiles train steps by "
                "itself: leave the decorator away"
            )
        try:
            native.build(self.model, spec)
            found = select(sites(self.model), self.layers)
            self._slots = [slot for site in found for slot in site.weights]
            self._points = [point for site in found for point in site.outputs]
            function = self._recorded_step if self._eagerly else self._compiled_for(spec)
            if self.failure is not None:
                raise self.failure
        except Exception as error:
            raise CaptureError(f"the train step could not be traced with taps on: {error}") from error
        return _Trace(spec, function, self._collected, self._reading)

    def record(self, batch: Any) -> tuple[Any, Recording | None, Verdict | None]:
        """Trains on a batch, and records. The step must have been traced.

        Args:
            batch: what `next_batch` gave.

        Returns:
            The logs of `train_step`, what was recorded (None if that failed, see `failure`) and what the
            guard says (None without one).
        """
        start = time.perf_counter()
        logs, counted, watched, reduced = self._function(batch)
        verdict = None if self._guard is None else self._guard.verdict(watched)
        if self.failure is not None:
            return logs, None, verdict
        try:
            assert self._reading is not None
            recording = self._reading.read(start, counted, reduced)
        except Exception as error:
            # The step has been taken: its logs must reach Keras whatever became of the recording.
            self.failure = error
            return logs, None, verdict
        recording, self._tracing = dataclasses.replace(recording, tracing=self._tracing), 0.0
        if verdict is not None and verdict.alarm:
            recording = dataclasses.replace(recording, applied=False, blocked=True)
        return logs, recording, verdict

    def skip(self, batch: Any) -> Any:
        """Trains on a batch without recording; returns the logs of `train_step`.

        Needed inside an execution of several steps of which only some are due.
        """
        return self._plain(batch)

    # -- traced ---------------------------------------------------------------------------------

    def _compiled_for(self, spec: Any) -> Callable[[Any], Any]:
        # A new inner function each time: a cached one would not run its Python again and leave no layout.
        self._tapped_step = native.compiled(self.model, self._tapped, self._tapping)
        function = tf.function(self._recorded_step).get_concrete_function(tf.OptionalSpec(spec))
        random = sorted(_stateful_random_ops(function))
        if random:
            message = (
                f"the model draws random numbers by {', '.join(random)}, which have a state of their own in "
                "every compiled function: recorded steps draw others than they would have; keras.random "
                "with a SeedGenerator draws the same"
            )
            self._collected.notes.append(Note("stateful-random", None, message))
        return function

    @tf.autograph.experimental.do_not_convert
    def _recorded_step(self, batch: Any) -> tuple[Any, Any, Any, Any]:
        """One step on a batch; weights are read outside the (perhaps XLA) step."""
        data = data_of(batch)
        iterations = step_counter(self.model.optimizer)
        first, rate = tf.identity(iterations), learning_rate(self.model.optimizer)
        watched = self._slots if self.capture & {"weights", "updates"} else []
        before = [tf.identity(slot.variable.value) for slot in watched]
        held = self._guard.hold() if self._guard is not None else []
        logs, (bits, masks, received), verdict = self._tapped_step(data)
        inner, whole = self._collected, Collected(notes=self._collected.notes)
        if "weights" in self.capture:
            for slot, value in zip(watched, before, strict=True):
                whole.keep(weight_info(slot, "weight", {}), value)
        shares = self._take_in(whole, inner, bits, masks)
        received = [(_from_bits(g, seen), v) for g, (seen, v) in zip(received, self._received, strict=True)]
        collect_applied(whole, self.model.optimizer, received, self._slots, self._received_attrs)
        if "updates" in self.capture:
            for slot, value in zip(watched, before, strict=True):
                whole.keep(weight_info(slot, "update", {}), tf.identity(slot.variable.value) - value)
        self._collected = whole
        after = tf.identity(iterations)
        if self._guard is not None:
            verdict = self._guard.settle(held, verdict)
        self._reading = Reading(whole, self.level, shares)
        return native.reduced(self.model, logs), (first, after, rate), verdict, self._reading.reduced

    def _take_in(
        self, whole: Collected, inner: Collected, bits: Sequence[Any], masks: dict[str, Any]
    ) -> Shares | None:
        """Adds what the step saw inside; returns what replicas have shares of, to be merged on the host."""
        if not self._several:
            for info, pattern in zip(inner.infos, bits, strict=True):
                name = str(info.key)
                whole.keep(info, tf.bitcast(pattern, inner.tensors[name].dtype), masks.get(name))
                whole.sources[name] = inner.sources[name]
            return None
        shares = Shares(self.model.distribute_strategy, inner, self.level == "full")
        totals = shares.together(bits, masks)
        whole.infos += shares.infos
        for info, total in zip(shares.summed, totals, strict=True):
            name = str(info.key)
            whole.tensors[name], whole.sources[name] = total, name
        return shares

    @contextlib.contextmanager
    def _tapping(self) -> Iterator[None]:
        """Puts the taps on while a step is traced, once for all replicas."""
        optimizer, self._taps = self.model.optimizer, _Taps()
        with contextlib.ExitStack() as stack:
            if self._guard is not None:
                self._taps.watch = stack.enter_context(self._guard.watching())
            if self.capture & {"outputs", "output_gradients"}:
                self._taps.outputs = stack.enter_context(tapped_outputs(self._points))
            if "gradients" in self.capture:
                self._taps.gradients = stack.enter_context(tapped_gradients(optimizer))
            self._taps.losses = stack.enter_context(tapped_loss(self.model))
            self._taps.scale = stack.enter_context(tapped_scale(optimizer))
            yield

    @tf.autograph.experimental.do_not_convert
    def _tapped(self, data: Any) -> tuple[Any, tuple[list[Any], dict[str, Any], list[Any]], Any]:
        """The model's own `train_step`, on one replica, and what its taps saw."""
        logs, taps = self.model.train_step(data), self._taps
        verdict = None if taps.watch is None else taps.watch.here.packed()
        outputs = taps.outputs.here
        self._collected = Collected()
        try:
            if outputs.failure is not None:
                raise outputs.failure
            self._collect(outputs, taps.losses.here, taps.gradients.here, taps.scale.here.factor)
            received = [_slices_to_bits(gradient) for gradient, _ in self._received]
            return logs, (self._taken_out(), self._collected.masks, received), verdict
        except Exception as error:
            # Not raised here: the trace must be completed, see `OutputTaps.record`.
            self.failure, self._collected, self._received = error, Collected(), []
            return logs, ([], {}, []), verdict

    def _taken_out(self) -> list[Any]:
        """Bit patterns of what was collected, for they leave the step without changing its rounding.

        For statistics alone, one of several tensors of the same values will do.
        """
        # Sparse gradients leave it dense.
        tensors = [tf.convert_to_tensor(tensor) for tensor in self._collected.tensors.values()]
        if self.level != "full":
            first: dict[Hashable, Any] = {}
            sources = self._collected.sources.values()
            tensors = [first.setdefault(source, t) for source, t in zip(sources, tensors, strict=True)]
        if not self.model.jit_compile:
            copies: dict[str, Any] = {}
            tensors = [aside(tensor, copies) for tensor in tensors]
        return [_to_bits(tensor) for tensor in tensors]

    def _collect(self, outputs: OutputTaps, losses: LossTaps, gradients: GradientTaps, scale: Any) -> None:
        if self._several:
            leave_out_scalars(self._collected, outputs)
        if "outputs" in self.capture:
            collect_outputs(self._collected, outputs, self._points)
        collect_losses(self._collected, losses)
        if "output_gradients" in self.capture:
            collect_output_gradients(self._collected, outputs, scale)
        optimizer = self.model.optimizer
        attrs = gradient_attrs(optimizer) | scale_attrs(scale)
        collect_weight_gradients(self._collected, gradients, self._slots, scale, attrs)
        if "gradients" in self.capture:
            note_not_applied(self._collected, optimizer, self._several)
            self._received = [] if self._several else received_by(optimizer, gradients, scale)
            self._received_attrs = attrs


def require_recordable(model: Any) -> None:
    """Refuses models whose training cannot be recorded.

    Raises:
        ArgumentError: if the model is not compiled, or is trained by a strategy that is not known.
    """
    if getattr(model, "optimizer", None) is None:
        raise ArgumentError(
            "model.optimizer is None: either call model.compile(optimizer, loss) first, or this model "
            "keeps optimizers of its own (as GANs do), and what these receive cannot be recorded"
        )
    strategy = model.distribute_strategy
    if strategy.num_replicas_in_sync > 1 and not isinstance(strategy, _STRATEGIES):
        raise ArgumentError(
            f"a training by {type(strategy).__name__} cannot be recorded; one by MirroredStrategy or "
            "MultiWorkerMirroredStrategy can"
        )


def require_one_replica(model: Any) -> None:
    """Refuses models whose steps cannot be seen outside of `fit`.

    Raises:
        ArgumentError: if the model is trained on several replicas.
    """
    replicas = model.distribute_strategy.num_replicas_in_sync
    if replicas > 1:
        raise ArgumentError(
            f"the model is trained on {replicas} replicas, whose loop cannot be watched: give the monitor to "
            "fit as a callback"
        )


def gradient_attrs(optimizer: Any) -> dict[str, Any]:
    """What a label says of gradients: what the optimizer, which received them, goes on to do to them."""
    attrs: dict[str, Any] = {"from": "training batch", "as": "received by the optimizer"}
    if clips_of(optimizer):
        attrs["clipping"] = f"before {', '.join(clips_of(optimizer))}"
    if accumulates(optimizer):
        attrs["accumulation"] = f"of one micro-step of {accumulates(optimizer)}"
    return attrs


@dataclass(frozen=True)
class _Trace:
    """A compiled step: for which batches, and what it records."""

    spec: Any
    function: Callable[[Any], Any]
    collected: Collected
    reading: Reading | None


def _narrowest(known: Sequence[Any], spec: Any) -> Any:
    """The signature whose function TensorFlow would take for a batch: the most specific that covers it.

    Keras's own function goes by this rule, and with other static sizes the same step may be computed by
    other kernels, which round differently.
    """
    found: Any = None
    for signature in known:
        covers = _covering(spec, signature) == signature
        if covers and (found is None or _covering(signature, found) == found):
            found = signature
    return found


def _covering(new: Any, known: Any) -> Any:
    """The most specific kind of batch of which both are cases; the new one if there is none."""
    try:
        both = tf.nest.map_structure(lambda a, b: a.most_specific_common_supertype([b]), known, new)
    except (TypeError, ValueError):
        return new
    return new if any(spec is None for spec in tf.nest.flatten(both)) else both


def _stateful_random_ops(function: Any) -> set[str]:
    graph = function.graph.as_graph_def()
    nodes = [*graph.node, *(node for inner in graph.library.function for node in inner.node_def)]
    return {node.op for node in nodes} & _STATEFUL_RANDOM


#: TensorFlow's random operations that keep their state in the operation, not in a variable.
_STATEFUL_RANDOM = {
    "Multinomial",
    "ParameterizedTruncatedNormal",
    "RandomGamma",
    "RandomPoissonV2",
    "RandomShuffle",
    "RandomStandardNormal",
    "RandomUniform",
    "RandomUniformInt",
    "TruncatedNormal",
}


def learning_rate(optimizer: Any) -> Any:
    """The learning rate of the step that comes next, schedules followed; NaN for none."""
    rate = getattr(inner_optimizer(optimizer), "learning_rate", np.nan)
    return tf.identity(tf.cast(rate, tf.float32))


def _on_batch(model: Any, step: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @tf.autograph.experimental.do_not_convert
    def step_on_batch(batch: Any) -> Any:
        return native.reduced(model, step(data_of(batch)))

    return step_on_batch


def _to_bits(tensor: Any) -> Any:
    """The bit pattern of a tensor, as integers: how a tensor leaves the (perhaps XLA-compiled) step.

    XLA never fuses an instruction that is also an output of the program, and what is not fused may be
    rounded differently: returning a gradient as it is changed the last bit of the weights. A bit pattern
    is one more cheap element-wise consumer, with which the original fuses as before.
    """
    return tf.bitcast(tensor, {2: tf.int16, 4: tf.int32, 8: tf.int64}[tensor.dtype.size])


def _slices_to_bits(gradient: Any) -> Any:
    """`_to_bits`, and slices stay slices: optimizers clip them as such."""
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(_to_bits(gradient.values), gradient.indices, gradient.dense_shape)
    return _to_bits(gradient)


def _from_bits(pattern: Any, like: Any) -> Any:
    dtype = like.dtype
    if isinstance(pattern, tf.IndexedSlices):
        return tf.IndexedSlices(tf.bitcast(pattern.values, dtype), pattern.indices, pattern.dense_shape)
    return tf.bitcast(pattern, dtype)
