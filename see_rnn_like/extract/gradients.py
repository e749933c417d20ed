"""Gradients of the compiled loss by see-rnn's ids."""

from __future__ import annotations

from typing import Any

from see_rnn_like.engine import oneshot
from see_rnn_like.errors import ArgumentError, one_of
from see_rnn_like.extract.batches import read_batch
from see_rnn_like.extract.outputs import as_training, require_built
from see_rnn_like.extract.targets import (
    Target,
    named_arrays,
    output_targets,
    param_targets,
    weight_targets,
)
from see_rnn_like.models import ids

MODES = ("outputs", "weights")


def get_gradients(
    model: Any,
    _id: Any,
    input_data: Any,
    labels: Any,
    sample_weight: Any = None,
    learning_phase: bool | int = 0,
    layer: Any = None,
    mode: str = "outputs",
    params: Any = None,
    as_dict: bool = False,
    *,
    clip: bool = True,
) -> Any:
    """Gradients of the compiled loss, regularization included. Nothing of the model changes.

    The gradient with respect to an output sequence leaves out the recurrent path: for a layer followed by
    its last step only, it is zero at every timestep but the last, which is not yet a vanishing gradient.

    The loss of a softmax or sigmoid head is computed from its logits, as Keras does in training, except in
    the gradient with respect to that head's own output, where it is Keras's formula for probabilities.

    Args:
        model: a built and compiled Keras 3 model of any kind.
        _id: text: the layer of that name or path (``"encoder/lstm_1"``), else the first in `model.layers`
            whose name contains it; int: index into `model.layers`; a list of these; ``'*'``: every layer but
            the input that has a gradient. An input layer, or ``'input'`` where no layer's name contains that,
            stands for the model's input. In mode ``'weights'`` all ids of `get_weights`.
        input_data: arrays, a list or dict of them, a `tf.data.Dataset` (its first batch), a
            `keras.utils.PyDataset` (batch 0) or a generator, which is advanced by one batch.
        labels: targets; None if `input_data` yields them.
        sample_weight: weights of the samples; None if `input_data` yields them or there are none.
        learning_phase: 0 inference, 1 training mode; the random numbers are those of the next training step.
        layer: a layer of the model, or a list; overrides `_id`.
        mode: ``'outputs'``: with respect to layer outputs; ``'weights'``: to trainable weights.
        params: weights (`keras.Variable`) or symbolic tensors (``layer.output``, ``model.inputs[0]``), or a
            list of them; overrides `_id`, `layer` and `mode`.
        as_dict: return ``{full name: array}``; weights go by their variable's `path`.
        clip: clip as the optimizer does (`clipnorm`, `clipvalue`, `global_clipnorm`); weights exactly as in a
            train step, outputs by the same rule among those asked for. False: gradients as they are.

    Returns:
        The array if one id is given and it has one gradient, otherwise a list in the order asked for, or a
        dict. Zero where the loss does not depend on it. Loss scaling (mixed_float16) is divided out, which
        makes float16 gradients float32. Several outputs or calls of a layer are named as in `get_outputs`.

    Raises:
        UnknownLayerError: if an id matches nothing; the message lists what there is.
        UnsupportedLayerError: if there is no such gradient: nothing trainable, integers, a layer that is not
            called, or only inside a loop.
        ArgumentError: if the model is not built or not compiled with a loss, labels are missing, or `mode`,
            `learning_phase` or `params` cannot be used.
        ForeignModelError: if it is not a Keras 3 model on the TensorFlow backend.

    Example:
        >>> import keras, numpy as np
        >>> lstm = keras.layers.LSTM(2, return_sequences=True, name="lstm")
        >>> model = keras.Sequential([keras.Input((9, 3)), lstm, keras.layers.Dense(1)])
        >>> model.compile("adam", "mse")
        >>> x, y = np.zeros((4, 9, 3)), np.ones((4, 9, 1))
        >>> get_gradients(model, "lstm", x, y).shape
        (4, 9, 2)
        >>> get_gradients(model, "lstm/bias", x, y, mode="weights").shape
        (8,)
    """
    require_built(model)
    training = as_training(learning_phase)
    if mode not in MODES:
        raise one_of("mode", mode, MODES)
    batch = read_batch(input_data, labels, sample_weight)
    require_loss(model, batch.y)
    targets = _targets(model, _id, layer, mode, params, batch.x)
    wanted = [target.wanted for target in targets]
    found = oneshot.fetch_gradients(model, wanted, batch.x, batch.y, batch.sample_weight, training, clip)
    every = params is None and layer is None and mode == "outputs" and _id == ids.EVERY
    named = named_arrays(targets, found, "gradient", every)
    if as_dict:
        return dict(named)
    asked = next(item for item in (params, layer, _id) if item is not None)
    return ids.unwrap_single(asked, [array for _, array in named])


def _targets(model: Any, _id: Any, layer: Any, mode: str, params: Any, x: Any) -> list[Target]:
    if params is not None:
        return param_targets(model, params, x)
    return weight_targets(model, _id, layer) if mode == "weights" else output_targets(model, _id, layer, x)


def require_loss(model: Any, y: Any) -> None:
    """Refuses a model whose loss cannot be computed.

    Raises:
        ArgumentError: if it is not compiled, or its compiled loss needs the targets that are missing.
    """
    if not model.compiled:
        raise ArgumentError(f"model {model.name!r} has no loss; call model.compile(optimizer, loss) first")
    if y is None and getattr(model, "loss", None) is not None:
        raise ArgumentError("the compiled loss needs labels; pass them, or input_data that yields (x, y)")
