"""Layers and their full names by see-rnn's ids."""

from __future__ import annotations

from typing import Any

from see_rnn_like.models import ids


def get_layer(model: Any, _id: Any) -> Any:
    """Finds a layer, or several.

    Args:
        model: a Keras 3 model.
        _id: text: the layer of that name or path (``"encoder/lstm_1"``), else the first in `model.layers`
            whose name contains it; int: index into `model.layers`; a list of these; ``'*'``: every layer
            but the input.

    Returns:
        The layer if one is asked for and one is found, otherwise a list in the order asked for.

    Raises:
        UnknownLayerError: if an id matches nothing; the message lists the layers there are.
        ForeignModelError: if it is not a Keras 3 model on the TensorFlow backend.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((9, 3)), keras.layers.LSTM(2, name="lstm_7")])
        >>> get_layer(model, "lstm").name
        'lstm_7'
    """
    return ids.unwrap_single(_id, [found.layer for found in ids.find_layers(model, _id)])


def get_full_name(model: Any, _id: Any) -> Any:
    """The full name of a layer, or of several; inside a nested model that is its path.

    Args:
        model: a Keras 3 model.
        _id: as in `get_layer`.

    Returns:
        The name if one is asked for and one is found, otherwise a list in the order asked for.

    Raises:
        UnknownLayerError: if an id matches nothing.
        ForeignModelError: if it is not a Keras 3 model on the TensorFlow backend.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((9, 3)), keras.layers.LSTM(2, name="lstm_7")])
        >>> get_full_name(model, ["ls", 0])
        ['lstm_7', 'lstm_7']
    """
    return ids.unwrap_single(_id, [found.name for found in ids.find_layers(model, _id)])
