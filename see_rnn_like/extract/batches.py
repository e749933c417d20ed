"""Reading one batch from whatever Keras can be trained on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from see_rnn_like.errors import ArgumentError, ArgumentTypeError
from see_rnn_like.models.layout import is_variable

_FORMS = (
    "arrays, a list or dict of arrays, a tf.data.Dataset, a keras.utils.PyDataset or a generator of batches"
)


@dataclass(frozen=True)
class Batch:
    """One batch as tensors.

    Attributes:
        x: inputs, in the structure they came in.
        y: targets, or None.
        sample_weight: weights of the samples, or None.
    """

    x: Any
    y: Any = None
    sample_weight: Any = None


def read_batch(input_data: Any, labels: Any = None, sample_weight: Any = None) -> Batch:
    """Reads inputs, targets and sample weights.

    Args:
        input_data: arrays (anything NumPy takes), a list or dict of them, or a source of batches:
            a `tf.data.Dataset` (its first batch), a `keras.utils.PyDataset` (batch 0), or an iterator such as
            a generator, which is advanced by exactly one batch. Batches are ``x``, ``(x, y)`` or
            ``(x, y, sample_weight)``.
        labels: targets in the same forms as the inputs; None if the source yields them.
        sample_weight: weights; None if the source yields them or there are none.

    Returns:
        The batch. Like `Model.fit`, floating-point NumPy arrays are brought to `keras.config.floatx()`.

    Raises:
        ArgumentError: if a source yields no batch, or yields targets or weights that are given as well.
        ArgumentTypeError: if something in it is not an array.
    """
    if not _is_source(input_data):
        return Batch(
            _tensors("input_data", input_data),
            _tensors("labels", labels),
            _tensors("sample_weight", sample_weight),
        )
    x, y, weight = keras.utils.unpack_x_y_sample_weight(_first(input_data))
    return Batch(
        _tensors("input_data", x),
        _tensors("labels", _only_one("labels", labels, y)),
        _tensors("sample_weight", _only_one("sample_weight", sample_weight, weight)),
    )


def require_fitting(model: Any, x: Any) -> None:
    """Refuses inputs that the inputs of a functional model cannot be.

    Raises:
        ArgumentError: for another number of arrays, or sizes of axes that differ from the model's.
    """
    wanted = [tuple(tensor.shape) for tensor in getattr(model, "inputs", None) or ()]
    given = [tuple(tensor.shape) for tensor in tf.nest.flatten(x)]
    if wanted and (len(wanted) != len(given) or any(map(_differ, given, wanted))):
        raise ArgumentError(
            f"the batch does not fit the model, which takes {', '.join(map(str, wanted))}; got "
            f"{', '.join(map(str, given))}"
        )


def _differ(given: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    # Keras adds or takes away a last axis of size 1 by itself.
    same_rank = len(given) == len(wanted)
    return same_rank and any(n not in (None, size) for size, n in zip(given, wanted, strict=True))


def _is_source(data: Any) -> bool:
    return isinstance(data, tf.data.Dataset | keras.utils.PyDataset | Iterator)


def _first(source: Any) -> Any:
    if isinstance(source, keras.utils.PyDataset):
        return source[0]
    # take(1): the rest of the pipeline has no reason to run.
    batches = iter(source.take(1)) if isinstance(source, tf.data.Dataset) else source
    try:
        return next(batches)
    except StopIteration:
        raise ArgumentError(f"input_data ({type(source).__name__}) has no batch to give") from None


def _only_one(name: str, given: Any, read: Any) -> Any:
    if given is not None and read is not None:
        raise ArgumentError(f"input_data yields {name} itself; pass {name}=None")
    return read if given is None else given


def _tensors(name: str, data: Any) -> Any:
    if data is None:
        return None
    return tf.nest.map_structure(_Converter(name), data)


@dataclass(frozen=True)
class _Converter:
    """Turns one leaf into a tensor; knows the argument's name for the error."""

    name: str

    def __call__(self, leaf: Any) -> Any:
        if leaf is None or tf.is_tensor(leaf):
            return leaf
        if is_variable(leaf):
            return tf.convert_to_tensor(leaf)
        if isinstance(leaf, bool | int | float | complex | str | bytes):
            raise ArgumentTypeError(f"{self.name} must be {_FORMS}; it holds the bare value {leaf!r}")
        array = np.asarray(leaf)
        if array.dtype == object:
            raise ArgumentTypeError(f"{self.name} must be {_FORMS}; it holds a {type(leaf).__name__}")
        if np.issubdtype(array.dtype, np.floating):
            array = array.astype(keras.config.floatx(), copy=False)
        return tf.convert_to_tensor(array)
