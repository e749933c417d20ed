"""Outputs of layers by see-rnn's ids."""

from __future__ import annotations

from typing import Any

from see_rnn_like.engine import oneshot
from see_rnn_like.errors import ArgumentError
from see_rnn_like.extract.batches import read_batch
from see_rnn_like.extract.targets import named_arrays, output_targets
from see_rnn_like.models import ids, layout


def get_outputs(
    model: Any,
    _id: Any,
    input_data: Any,
    layer: Any = None,
    learning_phase: bool | int = 0,
    as_dict: bool = False,
) -> Any:
    """What layers compute for a batch of data. Nothing of the model changes.

    Args:
        model: a built Keras 3 model of any kind.
        _id: text: the layer of that name or path (``"encoder/lstm_1"``), else the first in `model.layers`
            whose name contains it; int: index into `model.layers`; a list of these; ``'*'``: every layer but
            the input that is called and can be seen.
        input_data: arrays ``(sample, time, channel)`` or whatever the model takes, a list or dict of them, a
            `tf.data.Dataset` (its first batch), a `keras.utils.PyDataset` (batch 0) or a generator, which is
            advanced by one batch. Drawing from a reshuffling Dataset advances its shuffling as any loop does.
        layer: a layer of the model, or a list; overrides `_id`.
        learning_phase: 0 inference, 1 training mode; the random numbers are those of the next training step.
        as_dict: return ``{full name: array}``.

    Returns:
        The array if one layer is asked for and it has one output, otherwise a list in the order asked for, or
        a dict. A layer with several outputs (``return_state=True``, ``merge_mode=None``) or several calls (a
        shared layer) gives several arrays, named ``lstm``, ``lstm/output_1``, … and ``lstm/output@1``, ….

    Raises:
        UnknownLayerError: if an id matches nothing; the message lists the layers there are.
        UnsupportedLayerError: if the layer is not called, or inside a loop where its outputs cannot be seen.
        ArgumentError: if the model is not built or `learning_phase` is neither 0 nor 1.
        ForeignModelError: if it is not a Keras 3 model on the TensorFlow backend.

    Example:
        >>> import keras, numpy as np
        >>> lstm = keras.layers.LSTM(2, return_sequences=True, name="lstm")
        >>> model = keras.Sequential([keras.Input((9, 3)), lstm, keras.layers.Dense(1)])
        >>> get_outputs(model, "lstm", np.zeros((4, 9, 3))).shape
        (4, 9, 2)
    """
    require_built(model)
    training = as_training(learning_phase)
    batch = read_batch(input_data)
    targets = output_targets(model, _id, layer, batch.x)
    found = oneshot.fetch_outputs(model, [target.wanted for target in targets], batch.x, training)
    named = named_arrays(targets, found, "output", layer is None and _id == ids.EVERY)
    if as_dict:
        return dict(named)
    return ids.unwrap_single(_id if layer is None else layer, [array for _, array in named])


def require_built(model: Any) -> None:
    """Refuses a model without weights: building it here would draw them, and so change the model.

    Raises:
        ForeignModelError: if it is not a Keras 3 model on the TensorFlow backend.
        ArgumentError: if it is not built.
    """
    layout.require_keras_model(model)
    if not model.built:
        raise ArgumentError(
            f"model {model.name!r} is not built yet, so it has no weights to compute with; give it an Input, "
            "or call it once on data"
        )


def as_training(learning_phase: bool | int) -> bool:
    """Reads see-rnn's learning phase.

    Raises:
        ArgumentError: if it is neither 0 nor 1, False nor True.
    """
    if learning_phase not in (0, 1):
        raise ArgumentError(
            f"learning_phase must be 0 (inference) or 1 (training mode); got {learning_phase!r}"
        )
    return bool(learning_phase)
