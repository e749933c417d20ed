"""Weight penalties: the L1 and L2 regularization of a model."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from see_rnn_like.extract.arrays import to_numpy
from see_rnn_like.models import ids, layout


def get_weight_penalties(model: Any) -> dict[str, tuple[float, float]]:
    """The L1 and L2 factors of every regularized weight.

    Args:
        model: a built Keras 3 model.

    Returns:
        ``{full name: (l1, l2)}`` for every weight, of whatever role, with an `L1`, `L2` or `L1L2`
        regularizer; those with both factors zero are left out, and so are other regularizers, which have no
        such factors. Frozen weights are included (Keras leaves them out of the loss, see `weight_loss`).

    Raises:
        ForeignModelError: if it is not a Keras 3 model on the TensorFlow backend.

    Example:
        >>> import keras
        >>> dense = keras.layers.Dense(1, kernel_regularizer=keras.regularizers.L2(0.5), name="dense")
        >>> get_weight_penalties(keras.Sequential([keras.Input((2,)), dense], name="m"))
        {'m/dense/kernel': (0.0, 0.5)}
    """
    layout.require_keras_model(model)
    names = ids.weight_names(model)
    factors = {names[id(variable)]: _factors(variable) for variable in model.weights}
    return {name: factor for name, factor in factors.items() if any(factor)}


def weight_loss(model: Any) -> float:
    """What L1 and L2 regularization add to the loss: ``sum(l1 · Σ|w| + l2 · Σw²)``.

    Args:
        model: a built Keras 3 model.

    Returns:
        The L1/L2 part of ``sum(model.losses)``; like Keras, over trainable weights only. Other regularizers,
        activity regularizers and `add_loss` are not in it. Summed in float64.

    Raises:
        ForeignModelError: if it is not a Keras 3 model on the TensorFlow backend.

    Example:
        >>> import keras
        >>> dense = keras.layers.Dense(1, kernel_regularizer=keras.regularizers.L2(0.5))
        >>> model = keras.Sequential([keras.Input((2,)), dense])
        >>> model.set_weights([np.array([[1.0], [3.0]]), np.array([0.0])])
        >>> weight_loss(model)
        5.0
    """
    layout.require_keras_model(model)
    return float(sum(_penalty(variable) for variable in model.trainable_weights))


def _factors(variable: Any) -> tuple[float, float]:
    regularizer = getattr(variable, "regularizer", None)
    if not isinstance(regularizer, keras.regularizers.L1 | keras.regularizers.L2 | keras.regularizers.L1L2):
        return 0.0, 0.0
    return float(getattr(regularizer, "l1", 0.0)), float(getattr(regularizer, "l2", 0.0))


def _penalty(variable: Any) -> float:
    l1, l2 = _factors(variable)
    if not (l1 or l2):
        return 0.0
    values = to_numpy(variable).astype("float64")
    return float(l1 * np.abs(values).sum() + l2 * np.square(values).sum())
