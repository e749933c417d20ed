"""The instrumented train step: the model's own `train_step`, compiled a second time with taps on.

It is called in place of Keras's train function on the steps that are due. Weights, updates, loss,
outputs and gradients come from the one forward and the one backward pass of the training itself.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from see_rnn_like.engine import summaries
from see_rnn_like.engine.taps import (
    GradientTaps,
    LossTaps,
    OutputTaps,
    TappedOutput,
    tapped_gradients,
    tapped_loss,
    tapped_outputs,
)
from see_rnn_like.errors import ArgumentError, CaptureError
from see_rnn_like.history import TensorInfo
from see_rnn_like.labels import TensorKey, output_dims, weight_dims
from see_rnn_like.models.layout import OutputPoint, WeightSlot, select, sites

#: What can be captured, in the order in which a train step makes it.
CAPTURES = ("weights", "outputs", "output_gradients", "gradients", "updates")
LEVELS = ("stats", "full")


@dataclass(frozen=True)
class Note:
    """Something a person should know about a tensor that was not recorded."""

    kind: str
    key: TensorKey
    message: str


@dataclass(frozen=True)
class Recording:
    """What one instrumented step brought to the host.

    Attributes:
        step: training steps before this one, see `step_counter`.
        seconds: how long the step took, recording included.
        applied: whether the optimizer counted the step; loss scaling skips one whose gradients overflow.
        infos: the recorded tensors in execution order.
        moments: key → float64 ``(gate, moment)``.
        histograms: key → int64 ``(gate, bin)``.
        values: key → array in the dims of its info; empty unless ``level="full"``.
        notes: what could not be recorded, and why.
    """

    step: int
    seconds: float
    applied: bool
    infos: tuple[TensorInfo, ...]
    moments: dict[TensorKey, np.ndarray]
    histograms: dict[TensorKey, np.ndarray]
    values: dict[TensorKey, np.ndarray]
    notes: tuple[Note, ...]


@dataclass
class _Layout:
    """What a traced step returns, in order; made while tracing."""

    infos: list[TensorInfo] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    dtypes: dict[str, tf.DType] = field(default_factory=dict)


class InstrumentedStep:
    """Runs one training step of a model with everything asked for recorded.

    Args:
        model: compiled; built at the latest by the first batch.
        layers: the layers to record, as `models.layout.select` takes them; None for all.
        capture: what to record, of `CAPTURES`; the loss always is.
        level: ``"stats"`` reduces every tensor in the graph, ``"full"`` also brings its values.

    Raises:
        ArgumentError: if the model is not compiled, or is trained on more than one replica.
    """

    def __init__(self, model: Any, layers: Any, capture: Collection[str], level: str) -> None:
        if model.optimizer is None:
            raise ArgumentError("the model has no optimizer; call model.compile(optimizer, loss) first")
        replicas = model.distribute_strategy.num_replicas_in_sync
        if replicas > 1:
            raise ArgumentError(
                f"the model is trained on {replicas} replicas; recording works with one replica so far"
            )
        self.model = model
        self.layers = layers
        self.capture = frozenset(capture)
        self.level = level
        self._slots: list[WeightSlot] = []
        self._points: list[OutputPoint] = []
        self._spec: Any = None
        self._layout = _Layout()
        self._function: Callable[[Any], Any] = self._recorded_step
        self._tapped_step: Callable[[Any], Any] = self._tapped
        self._plain = _from_iterator(
            model.train_step if model.run_eagerly else self._compiled(model.train_step)
        )
        if not model.run_eagerly:
            self._plain = tf.function(self._plain, reduce_retracing=True)

    def trace(self, iterator: Any) -> None:
        """Compiles the step for what `iterator` yields, unless that has been done. Runs nothing.

        Raises:
            CaptureError: if the step cannot be traced with taps on.
        """
        if self._spec == iterator.element_spec:
            return
        try:
            _build(self.model, iterator.element_spec)
            found = select(sites(self.model), self.layers)
            self._slots = [slot for site in found for slot in site.weights]
            self._points = [point for site in found for point in site.outputs]
            if not self.model.run_eagerly:
                self._function = self._traced(iterator)
        except Exception as error:
            raise CaptureError(f"the train step could not be traced with taps on: {error}") from error
        self._spec = iterator.element_spec

    def record(self, iterator: Any) -> tuple[Any, Recording]:
        """Takes the next batch, trains on it, and records.

        Args:
            iterator: the `tf.data` iterator Keras hands to a train function.

        Returns:
            The logs of `train_step` and what was recorded.

        Raises:
            tf.errors.OutOfRangeError: if the data is exhausted.
        """
        self.trace(iterator)
        if self.model.run_eagerly:
            self._layout = _Layout()
        start = time.perf_counter()
        logs, iterations, packed = self._function(iterator)
        return logs, self._to_host(start, iterations, packed)

    def skip(self, iterator: Any) -> Any:
        """Takes the next batch and trains on it without recording; returns the logs of `train_step`.

        Needed inside an execution of several steps of which only some are due.
        """
        return self._plain(iterator)

    # -- traced ---------------------------------------------------------------------------------

    def _traced(self, iterator: Any) -> Callable[[Any], Any]:
        self._layout = _Layout()
        # A new inner function each time: a cached one would not run its Python again and leave no layout.
        self._tapped_step = self._compiled(self._tapped)
        return tf.function(self._recorded_step).get_concrete_function(iterator)

    def _compiled(self, step: Callable[[Any], Any]) -> Callable[[Any], Any]:
        # The same wrapping as Keras's own train function, so that XLA compiles the same step.
        run = self.model.distribute_strategy.run

        @tf.autograph.experimental.do_not_convert
        def one_step_on_data(data: Any) -> Any:
            return run(step, args=(data,))

        return tf.function(one_step_on_data, reduce_retracing=True, jit_compile=self.model.jit_compile)

    @tf.autograph.experimental.do_not_convert
    def _recorded_step(self, iterator: Any) -> tuple[Any, Any, Any]:
        """One step on the iterator's next batch; weights are read outside the (perhaps XLA) step."""
        data = _next_batch(iterator)
        iterations = step_counter(self.model.optimizer)
        first = tf.identity(iterations)
        watched = self._slots if self.capture & {"weights", "updates"} else []
        before = [tf.identity(slot.variable.value) for slot in watched]
        logs, bits = self._tapped_step(data)
        tensors = {name: tf.bitcast(pattern, self._layout.dtypes[name]) for name, pattern in bits.items()}
        after = [tf.identity(slot.variable.value) for slot in watched]
        named: dict[str, Any] = {}
        if "weights" in self.capture:
            named |= {str(slot.key("weight")): value for slot, value in zip(watched, before, strict=True)}
        named |= tensors
        if "updates" in self.capture:
            changes = zip(watched, before, after, strict=True)
            named |= {str(slot.key("update")): new - old for slot, old, new in changes}
        infos = {str(info.key): info for info in (*self._weight_infos(), *self._layout.infos)}
        self._layout.infos = [infos[name] for name in named]
        return logs, tf.stack([first, tf.identity(iterations)]), self._packed(named)

    def _weight_infos(self) -> list[TensorInfo]:
        kinds = {"weights": "weight", "updates": "update"}
        return [
            _weight_info(slot, kind, {})
            for capture, kind in kinds.items()
            if capture in self.capture
            for slot in self._slots
        ]

    @tf.autograph.experimental.do_not_convert
    def _tapped(self, data: Any) -> tuple[Any, dict[str, Any]]:
        """The model's own `train_step` with taps on; patches live only while this is traced."""
        optimizer = self.model.optimizer
        scale = _loss_scale(optimizer)
        outputs, gradients = OutputTaps(), GradientTaps()
        with contextlib.ExitStack() as stack:
            if self.capture & {"outputs", "output_gradients"}:
                outputs = stack.enter_context(tapped_outputs(self._points))
            if "gradients" in self.capture:
                gradients = stack.enter_context(tapped_gradients(optimizer))
            loss = stack.enter_context(tapped_loss(self.model))
            logs = self.model.train_step(data)
        tensors = self._collected(outputs, loss, gradients, scale)
        self._layout.dtypes = {name: tensor.dtype for name, tensor in tensors.items()}
        return logs, {name: _to_bits(tensor) for name, tensor in tensors.items()}

    def _collected(
        self, outputs: OutputTaps, loss: LossTaps, gradients: GradientTaps, scale: Any
    ) -> dict[str, Any]:
        """Names what the taps saw, in the order in which the step made it."""
        tensors: dict[str, Any] = {}
        self._layout.infos, self._layout.notes = [], []
        # Every sigmoid or softmax output carries logits; they matter only where the loss went from them.
        seen = [o for o in outputs.seen if o.gradient is not None or not o.role.startswith("logits")]
        if "outputs" in self.capture:
            for output in seen:
                self._keep(tensors, _output_info(output, "value", None), output.value)
        for call, value in enumerate(loss.seen):
            role = "loss" + (f"@{call}" if call else "")
            self._keep(tensors, TensorInfo(TensorKey("", None, role, "value"), (), ()), value)
        if "output_gradients" in self.capture:
            for output in reversed(seen):
                self._keep(
                    tensors, _output_info(output, "gradient", scale), _unscaled(output.gradient, scale)
                )
        received = self._received(gradients)
        for slot in reversed(self._slots):
            if id(slot.variable) in received:
                info = _weight_info(slot, "gradient", self._gradient_attrs(scale))
                self._keep(tensors, info, _unscaled(received[id(slot.variable)], scale))
        return tensors

    def _keep(self, tensors: dict[str, Any], info: TensorInfo, tensor: Any) -> None:
        if tensor is None and _shown_by_logits(info, self._layout.infos):
            return
        if tensor is None:
            self._layout.notes.append(
                Note(
                    "no-gradient", info.key, f"no gradient reaches {info.key}: the loss does not depend on it"
                )
            )
        elif not _is_reachable(tensor):
            message = (
                f"{info.key} is computed inside a loop or a tf.function of its own and cannot be seen from "
                "the train step; it is not recorded"
            )
            self._layout.notes.append(Note("not-recorded", info.key, message))
        else:
            tensors[str(info.key)] = tensor
            self._layout.infos.append(info)

    def _received(self, gradients: GradientTaps) -> dict[int, Any]:
        received: dict[int, Any] = {}
        for gradient, variable in gradients.received:
            if id(variable) in received:
                raise CaptureError(
                    f"the optimizer got a gradient for {variable.path} twice in one train step; "
                    'record without capture "gradients"'
                )
            received[id(variable)] = gradient
        return received

    def _gradient_attrs(self, scale: Any) -> dict[str, Any]:
        optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        clips = [n for n in ("clipnorm", "clipvalue", "global_clipnorm") if getattr(optimizer, n, None)]
        attrs: dict[str, Any] = {"from": "training batch", "as": "received by the optimizer"}
        if clips:
            attrs["clipping"] = f"before {', '.join(clips)}"
        if optimizer.gradient_accumulation_steps:
            attrs["accumulation"] = f"of one micro-step of {optimizer.gradient_accumulation_steps}"
        return attrs | _scale_attrs(scale)

    def _packed(self, named: dict[str, Any]) -> dict[str, Any]:
        """Reduces every tensor and stacks the results, so that few tensors travel to the host."""
        gates = [max(len(info.gates), 1) for info in self._layout.infos]
        pairs = zip(named.values(), gates, strict=True)
        moments, histograms = zip(*(summaries.summarize(tensor, n) for tensor, n in pairs), strict=True)
        packed: dict[str, Any] = {"moments": tf.concat(moments, 0), "histograms": tf.concat(histograms, 0)}
        if self.level == "full":
            packed["values"] = named
        return packed

    # -- on the host ----------------------------------------------------------------------------

    def _to_host(self, start: float, iterations: Any, packed: dict[str, Any]) -> Recording:
        before, after = iterations.numpy()
        infos = tuple(self._layout.infos)
        ends = np.cumsum([max(len(info.gates), 1) for info in infos])[:-1]
        moments = np.split(packed["moments"].numpy(), ends)
        histograms = np.split(packed["histograms"].numpy().astype("int64"), ends)
        values = packed.get("values", {})
        return Recording(
            int(before),
            time.perf_counter() - start,
            bool(after > before),
            infos,
            {info.key: table for info, table in zip(infos, moments, strict=True)},
            {info.key: table for info, table in zip(infos, histograms, strict=True)},
            {info.key: _in_dims(info, values[str(info.key)].numpy()) for info in infos if values},
            tuple(self._layout.notes),
        )


def _build(model: Any, element_spec: Any) -> None:
    """Makes the variables of a model that Keras would build at its first batch.

    A symbolic call, as Keras itself builds models: nothing is computed, and the initial values are drawn in
    the order in which the first batch would have drawn them.
    """
    if all(layer.built for layer in model._flatten_layers()):
        return
    x, _, _ = keras.utils.unpack_x_y_sample_weight(element_spec)
    model(tf.nest.map_structure(lambda spec: keras.KerasTensor(spec.shape, spec.dtype.name), x))


def step_counter(optimizer: Any) -> Any:
    """The variable in which an optimizer counts training steps.

    Under gradient accumulation these are the micro-steps (`optimizer.iterations` then counts the updates);
    under loss scaling a skipped step is not counted.
    """
    return getattr(optimizer, "inner_optimizer", optimizer)._iterations


def _from_iterator(step: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @tf.autograph.experimental.do_not_convert
    def step_on_iterator(iterator: Any) -> Any:
        return step(_next_batch(iterator))

    return step_on_iterator


def _next_batch(iterator: Any) -> Any:
    # Keras passes absent entries (no targets, no weights) as empty optionals.
    return tf.nest.map_structure(
        lambda item: None if isinstance(item, tf.experimental.Optional) else item, iterator.get_next()
    )


def _to_bits(tensor: Any) -> Any:
    """The bit pattern of a tensor, as integers: how a tensor leaves the (perhaps XLA-compiled) step.

    XLA never fuses an instruction that is also an output of the program, and what is not fused may be
    rounded differently: returning a gradient as it is changed the last bit of the weights. A bit pattern
    is one more cheap element-wise consumer, with which the original fuses as before.
    """
    if isinstance(tensor, tf.IndexedSlices):
        tensor = tf.convert_to_tensor(tensor)
    return tf.bitcast(tensor, {2: tf.int16, 4: tf.int32, 8: tf.int64}[tensor.dtype.size])


def _loss_scale(optimizer: Any) -> Any:
    """The factor the loss, and with it every gradient of this step, is multiplied by; None for 1."""
    if hasattr(optimizer, "dynamic_scale"):
        return tf.identity(optimizer.dynamic_scale)
    return getattr(optimizer, "loss_scale_factor", None)


def _unscaled(gradient: Any, scale: Any) -> Any:
    if gradient is None or scale is None:
        return gradient
    if isinstance(gradient, tf.IndexedSlices):
        gradient = tf.convert_to_tensor(gradient)
    wide = tf.cast(gradient, tf.float32) if gradient.dtype in (tf.float16, tf.bfloat16) else gradient
    return wide / tf.cast(scale, wide.dtype)


def _scale_attrs(scale: Any) -> dict[str, Any]:
    return {} if scale is None else {"loss_scale": "divided out"}


def _is_reachable(tensor: Any) -> bool:
    values = tensor.values if isinstance(tensor, tf.IndexedSlices) else tensor
    return not tf.is_symbolic_tensor(values) or values.graph is tf.compat.v1.get_default_graph()


def _shown_by_logits(info: TensorInfo, infos: list[TensorInfo]) -> bool:
    """Whether the loss goes from the logits of this output, so that the gradient is found there."""
    role = info.key.role.replace("output", "logits", 1)
    return replace(info.key, role=role) in [other.key for other in infos]


def _weight_info(slot: WeightSlot, kind: str, attrs: dict[str, Any]) -> TensorInfo:
    shape = tuple(slot.variable.shape)
    if slot.spec is None:
        return TensorInfo(slot.key(kind), weight_dims(len(shape)), shape, {}, attrs)
    dims = slot.spec.dims(slot.role, len(shape))
    coords = {"gate": slot.spec.gates}
    return TensorInfo(slot.key(kind), dims, slot.spec.split_shape(slot.role, shape), coords, attrs)


def _output_info(output: TappedOutput, kind: str, scale: Any) -> TensorInfo:
    point = output.point
    key = TensorKey(point.layer, point.direction, output.role, kind)
    shape = tuple(output.value.shape)
    attrs: dict[str, Any] = {"from": "training batch"}
    if point.direction == "backward":
        attrs["time_order"] = "input" if point.reversed_time else "last state only"
    if output.masked:
        attrs["mask"] = "masked timesteps are included"
    if kind == "gradient":
        attrs |= _scale_attrs(scale)
    return TensorInfo(key, output_dims(len(shape)), shape, {}, attrs)


def _in_dims(info: TensorInfo, array: np.ndarray) -> np.ndarray:
    """Brings a fetched array into the dims of its info: gates split off, time in input order."""
    if info.gates:
        array = array.reshape(*array.shape[:-1], len(info.gates), -1)
    if info.attrs.get("time_order") == "input":
        array = array[:, ::-1]
    return array
