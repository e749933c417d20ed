"""What Keras's own train function does around a step: building the model, compiling, taking a batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend.tensorflow.trainer import reduce_per_replica

from see_rnn_like.errors import CaptureError


def build(model: Any, element_spec: Any) -> None:
    """Makes the variables of a model that Keras would build at its first batch.

    A symbolic call, as Keras itself builds models: nothing is computed, and the initial values are drawn in
    the order in which the first batch would have drawn them.

    Args:
        model: a Keras 3 model.
        element_spec: specs of a batch, as a `tf.data` iterator has them.
    """
    if all(layer.built for layer in model._flatten_layers()):
        return
    x, _, _ = keras.utils.unpack_x_y_sample_weight(element_spec)
    model(tf.nest.map_structure(lambda spec: keras.KerasTensor(spec.shape, spec.dtype.name), x))


def compiled(
    model: Any,
    step: Callable[[Any], Any],
    within: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
) -> Callable[[Any], Any]:
    """Wraps a step as Keras's own train function does, so that XLA compiles the same step.

    Args:
        model: the compiled model.
        step: takes the data of a batch, on each replica.
        within: the context in which it is traced, once for all replicas.
    """
    run = model.distribute_strategy.run

    @tf.autograph.experimental.do_not_convert
    def one_step_on_data(data: Any) -> Any:
        with within():
            return run(step, args=(data,))

    if model.run_eagerly:
        return one_step_on_data
    return tf.function(one_step_on_data, reduce_retracing=True, jit_compile=model.jit_compile)


def reduced(model: Any, logs: Any) -> Any:
    """The logs of a step on all replicas as the train function of this Keras reduces them.

    Args:
        model: the compiled model.
        logs: what `compiled` returned for them.
    """
    strategy = model.distribute_strategy
    if strategy.num_replicas_in_sync == 1:
        return logs
    # Keras 3.0 lets the model choose, and has another rule for "auto".
    return reduce_per_replica(logs, strategy, getattr(model, "distribute_reduction_method", "auto"))


def next_batch(iterator: Any) -> Any:
    """The next batch as an optional, which keeps the unknown sizes of the iterator's spec.

    Asked for outside the graph: inside, a missing batch does not keep what never reads it, such as the
    step counter, from running.

    Args:
        iterator: the `tf.data` iterator Keras hands to a train function.

    Raises:
        tf.errors.OutOfRangeError: if the data is exhausted.
    """
    batch = iterator.get_next_as_optional()
    if not batch.has_value():
        raise tf.errors.OutOfRangeError(None, None, "end of the data")
    return batch


def data_of(batch: Any, strategy: Any = None, replica: int = 0) -> Any:
    """The data of a batch, with None for absent entries (no targets, no weights), which come as optionals.

    Args:
        batch: what `next_batch` gave.
        strategy: gives one replica's share of the data; None for the data as they are.
        replica: which of the replicas of this process.
    """
    data = tf.nest.map_structure(
        lambda item: None if isinstance(item, tf.experimental.Optional) else item, batch.get_value()
    )
    if strategy is None:
        return data
    return tf.nest.map_structure(lambda item: strategy.experimental_local_results(item)[replica], data)


class GivenBatch:
    """A batch that comes as it is, from `train_on_batch`, in the form of a `tf.data` iterator that yields it.

    Args:
        data: what Keras hands to its train step: arrays, tensors, None where there is nothing.
        eagerly: whether the train step is not compiled; it then gets the very data.

    Attributes:
        element_spec: as a `tf.data` iterator has it, all sizes known.

    Raises:
        CaptureError: if there is something in the data that is neither an array nor a tensor.
    """

    def __init__(self, data: Any, eagerly: bool) -> None:
        self.data = data
        self.element_spec = tf.nest.map_structure(_spec, data)
        self._eagerly = eagerly
        self._taken = False

    def get_next_as_optional(self) -> Any:
        """The batch, the first time; then the end of the data."""
        if self._taken:
            return tf.experimental.Optional.empty(self.element_spec)
        self._taken = True
        if self._eagerly:
            return self
        return tf.experimental.Optional.from_value(tf.nest.map_structure(_tensor, self.data))

    def has_value(self) -> bool:
        """Whether there is data, as an optional says it."""
        return True

    def get_value(self) -> Any:
        """The data, as an optional gives it."""
        return self.data


def _spec(item: Any) -> Any:
    """What tf.function goes by when it is called with the item."""
    if item is None:
        return tf.OptionalSpec(None)
    if isinstance(item, _TENSORS):
        return tf.type_spec_from_value(item)
    if not isinstance(item, np.ndarray | np.generic) and not hasattr(item, "to_numpy"):
        raise CaptureError(
            f"the batch holds {type(item).__name__} where an array or a tensor is expected; give "
            "train_on_batch NumPy arrays or tensors"
        )
    return tf.type_spec_from_value(np.asarray(item))


def _tensor(item: Any) -> Any:
    if item is None:
        return tf.experimental.Optional.empty(None)
    return item if isinstance(item, _TENSORS) else tf.convert_to_tensor(np.asarray(item))


_TENSORS = (tf.Tensor, tf.SparseTensor, tf.RaggedTensor)


def inner_optimizer(optimizer: Any) -> Any:
    """The optimizer that updates the weights: that inside of a LossScaleOptimizer, or the one given."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def step_counter(optimizer: Any) -> Any:
    """The variable in which an optimizer counts training steps.

    Under gradient accumulation these are the micro-steps (`optimizer.iterations` then counts the updates);
    under loss scaling a skipped step is not counted.
    """
    inner = inner_optimizer(optimizer)
    # Keras 3.0 has no accumulation and one public counter.
    return inner._iterations if hasattr(inner, "_iterations") else inner.iterations
