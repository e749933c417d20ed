"""Total derivatives of a loss by the states of a recurrent layer, through time."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

from see_rnn_like.engine.recurrence import recurrent_spec, state_gradients
from see_rnn_like.errors import ArgumentTypeError
from see_rnn_like.extract.batches import read_batch, require_fitting
from see_rnn_like.extract.gates import by_direction, recurrent_layer, states_over_time
from see_rnn_like.extract.gradients import require_loss


def get_state_gradients(
    model: Any,
    _id: Any,
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    loss: Callable[[Any], Any] | None = None,
) -> xr.Dataset:
    """dL/dh_t and dL/dc_t, the total derivatives by the states at every timestep, recurrence included.

    This is backpropagation through time (Werbos 1990, "Backpropagation through time: what it does and how to
    do it", Proc. IEEE 78, equation 5): how much the loss would change if the state at timestep t were
    another, with all that follows from it (of an LSTM's c_t also h_t of the same timestep). The gradient with
    respect to an output sequence, which `get_gradients` returns, leaves out the path through later
    timesteps. The model runs in inference mode, and nothing of it changes.

    Args:
        model: a built Keras 3 model; compiled unless `loss` is given.
        _id: the recurrent layer: name, part of a name, or index in `model.layers`.
        x: arrays, a list or dict of them, or a source of batches as `get_gradients` takes it.
        y: targets; None if `x` yields them or `loss` needs none.
        sample_weight: weights of the samples, or None.
        loss: a function of the model's outputs in place of the compiled loss, written with TensorFlow or
            `keras.ops`; what it returns is summed: ``lambda outputs: outputs[:, -1, 3]`` for logit 3 at the
            last timestep. Keep one function for repeated calls: each is compiled once, and what it reads
            besides its argument is read then.

    Returns:
        Dataset with one variable per state, `h` and for LSTM `c`, ``(sample, time, unit)``; a Bidirectional
        layer has a leading ``direction``, time in input order in both. Loss scaling is divided out. At masked
        timesteps, where the cell does not run, a state is that of an earlier timestep and so is its gradient.
        Zero where the loss does not depend on it. `attrs`: ``layer``, ``cell``, ``kind``.

    Raises:
        UnknownLayerError: if no layer matches.
        UnsupportedLayerError: if the layer is not recurrent or its cell is stacked, convolutional or unknown.
        ArgumentError: if the model is not built, or without `loss` not compiled or without `y`, or if the
            layer is not called exactly once.
        ArgumentTypeError: if `loss` is not a function.
        CaptureError: if the cell's output is not its first state.

    Example:
        >>> import keras, numpy as np
        >>> lstm = keras.layers.LSTM(2, name="lstm")
        >>> model = keras.Sequential([keras.Input((9, 3)), lstm, keras.layers.Dense(1)])
        >>> model.compile("adam", "mse")
        >>> gradients = get_state_gradients(model, "lstm", np.ones((4, 9, 3)), np.ones((4, 1)))
        >>> gradients["c"].sizes
        Frozen({'sample': 4, 'time': 9, 'unit': 2})
    """
    layer, parts = recurrent_layer(model, _id)
    if loss is not None:
        _require_function(loss)
    batch = read_batch(x, y, sample_weight)
    require_fitting(model, batch.x)
    if loss is None:
        require_loss(model, batch.y)
    found = state_gradients(model, parts, batch.x, batch.y, batch.sample_weight, loss)
    spec = recurrent_spec(parts[0])
    datasets = [xr.Dataset(states_over_time(spec, one.states)) for one in found]
    gradients = by_direction(parts, datasets).assign_attrs(layer=layer.name, cell=spec.name, kind="gradient")
    return gradients.assign_coords(time=np.arange(gradients.sizes["time"]))


def _require_function(loss: Any) -> None:
    try:
        # What compiled functions are kept by.
        usable = callable(loss) and bool({weakref.ref(loss)})
    except TypeError:
        usable = False
    if not usable:
        raise ArgumentTypeError(f"loss must be a function of the model's outputs or None; got {loss!r}")
