"""The first tensor of a train step that is not finite, found by running the step once more."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
import xarray as xr

from see_rnn_like.engine.programs import optimizer_of
from see_rnn_like.engine.witness import replay
from see_rnn_like.errors import ArgumentError
from see_rnn_like.extract import culprits, verdict
from see_rnn_like.extract.batches import read_batch, require_fitting
from see_rnn_like.extract.outputs import require_built
from see_rnn_like.findings import Autopsy
from see_rnn_like.models.layout import require_keras_model


def find_nonfinite(model: Any, x: Any, y: Any = None, sample_weight: Any = None) -> Autopsy | None:
    """Names the first NaN or Inf of a train step on a batch, or tells that there is none.

    Runs the model's own `train_step` eagerly, in training mode, with the dropout masks that the next step of
    `fit` would draw, and looks at everything that passes: data, weights, the output of every layer, gates and
    states of recurrent cells at every timestep, the terms of the loss, and all gradients in the order of the
    backward pass. Values that are not finite but do no harm (an attention mask of -inf, a NaN that a layer
    replaces) are passed over. Nothing of the model changes.

    Args:
        model: a built and compiled Keras 3 model.
        x: inputs of one batch, or a source of batches, as in `get_gradients`.
        y: targets; None if the source yields them.
        sample_weight: weights of the samples, if there are any.

    Returns:
        The `Autopsy`, or None if the loss and all gradients are finite.

    Raises:
        ForeignModelError: if it is not a Keras 3 model on the TensorFlow backend.
        ArgumentError: if the model is not compiled or not built, or the batch does not fit it.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> model = keras.Sequential([keras.Input((5, 2)), keras.layers.LSTM(3, name="lstm")])
        >>> model.compile("sgd", "mse")
        >>> x = np.ones((4, 5, 2), "float32")
        >>> find_nonfinite(model, x, np.zeros((4, 3))) is None
        True
        >>> x[1, 2, 0] = np.nan
        >>> find_nonfinite(model, x, np.zeros((4, 3))).message
        'NaN: input x holds 1 NaN, first at timestep 2 of 5, sample 1, feature 0'
    """
    require_keras_model(model)
    require_built(model)
    _require_compiled(model)
    batch = read_batch(x, y, sample_weight)
    require_fitting(model, batch.x)
    return examine(model, keras.utils.pack_x_y_sample_weight(batch.x, batch.y, batch.sample_weight))


def examine(
    model: Any,
    data: Any,
    *,
    step: int | None = None,
    trail: xr.DataArray | None = None,
    replica: int | None = None,
) -> Autopsy | None:
    """Runs a train step again and says why it is not finite; None if it is.

    Args:
        model: a built and compiled Keras 3 model in the state before the step.
        data: the batch, as `model.train_step` takes it.
        step: number of the step.
        trail: largest absolute values at the last steps, as in `Autopsy.trail`, the last row the step itself.
        replica: the replica that the batch belongs to, under a distribution strategy.
    """
    data = tf.nest.map_structure(_as_tensor, data)
    record = replay(model, data, replica)
    first = culprits.first_of(record)
    if first is None:
        return None
    suspect = culprits.suspect(model, data, record, first, replica)
    return verdict.autopsy(record, first, suspect, step, trail, replica)


def autopsy_of(
    model: Any,
    data: Any,
    *,
    step: int | None = None,
    trail: xr.DataArray | None = None,
    replica: int | None = None,
) -> Autopsy:
    """As `examine`, of a step that is known to have been not finite.

    Returns:
        The autopsy. If the step is finite when run again, it says so, and names the first tensor of the
        trail's last row.
    """
    found = examine(model, data, step=step, trail=trail, replica=replica)
    return verdict.not_reproduced(step, trail, replica) if found is None else found


def _as_tensor(leaf: Any) -> Any:
    return None if leaf is None else tf.convert_to_tensor(leaf)


def _require_compiled(model: Any) -> None:
    if optimizer_of(model) is None or not model.compiled:
        raise ArgumentError(
            f"{model.name} is not compiled; a train step needs an optimizer and a loss: call "
            "model.compile(optimizer, loss) first"
        )
