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
        ArgumentError: if a source yields no batch, or yields targets or weights that are given as well, or if
            the parts differ in their numbers of samples.
        ArgumentTypeError: if something in it is not an array.
    """
    if not _is_source(input_data):
        x, y, weight = input_data, labels, sample_weight
    else:
        x, given, weights = keras.utils.unpack_x_y_sample_weight(_first(input_data))
        y = _only_one("labels", labels, given)
        weight = _only_one("sample_weight", sample_weight, weights)
    return _require_same_samples(
        Batch(_tensors("input_data", x), _tensors("labels", y), _tensors("sample_weight", weight))
    )


def require_fitting(model: Any, x: Any) -> None:
    """Refuses inputs that the inputs of a functional model cannot be.

    Args:
        model: a built Keras 3 model; one that does not tell its inputs takes anything.
        x: tensors; those of a dict are paired with the model's by name, as Keras does.

    Raises:
        ArgumentError: for no array or no sample, another number of arrays, missing names, or sizes of axes
            that differ from the model's.
    """
    flat = tf.nest.flatten(x)
    if not flat or any(item is None or 0 in item.shape[:1] for item in flat):
        raise ArgumentError("there is nothing in this batch: it needs arrays with at least one sample")
    wanted, given = _shapes_wanted(model, x), _shapes_given(x, flat)
    fit = wanted.keys() <= given.keys() and not any(_differ(given[name], wanted[name]) for name in wanted)
    if wanted and not (fit and (isinstance(x, dict) or len(given) == len(wanted))):
        raise ArgumentError(
            f"the batch does not fit the model, which takes {_told(wanted)}; got {_told(given)}"
        )


def _shapes_wanted(model: Any, x: Any) -> dict[Any, tuple[int | None, ...]]:
    """Shapes of a model's inputs by place or, for inputs in a dict, by name; none where they are nested."""
    inputs = getattr(model, "inputs", None) or ()
    if isinstance(x, dict):
        by_name = model.input if inputs and isinstance(model.input, dict) else {t.name: t for t in inputs}
        return {name: tuple(tensor.shape) for name, tensor in by_name.items()}
    if isinstance(x, list | tuple) and any(tf.nest.is_nested(item) for item in x):
        return {}
    return {place: tuple(tensor.shape) for place, tensor in enumerate(inputs)}


def _shapes_given(x: Any, flat: list[Any]) -> dict[Any, tuple[int | None, ...]]:
    named = x.items() if isinstance(x, dict) else enumerate(flat)
    return {name: tuple(item.shape) for name, item in named if tf.is_tensor(item)}


def _told(shapes: dict[Any, tuple[int | None, ...]]) -> str:
    return ", ".join(f"{name!r} {s}" if isinstance(name, str) else str(s) for name, s in shapes.items())


def _differ(given: tuple[int | None, ...], wanted: tuple[int | None, ...]) -> bool:
    # Keras adds or takes away a last axis of size 1 by itself.
    if len(given) + 1 == len(wanted) and wanted[-1] == 1:
        given = (*given, 1)
    elif len(given) == len(wanted) + 1 and given[-1] == 1:
        given = given[:-1]
    return len(given) != len(wanted) or any(
        n not in (None, size) for size, n in zip(given, wanted, strict=True)
    )


def _require_same_samples(batch: Batch) -> Batch:
    parts = {"input_data": batch.x, "labels": batch.y, "sample_weight": batch.sample_weight}
    found = {
        name: {int(leaf.shape[0]) for leaf in tf.nest.flatten(part) if leaf is not None and leaf.shape.rank}
        for name, part in parts.items()
    }
    if len(set().union(*found.values())) > 1:
        numbers = ", ".join(f"{name} {sorted(sizes)}" for name, sizes in found.items() if sizes)
        raise ArgumentError(f"all parts of a batch must have the same number of samples; got {numbers}")
    return batch


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
