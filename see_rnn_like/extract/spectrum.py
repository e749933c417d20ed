"""Eigenvalues and singular values of recurrent kernels, gate by gate."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from see_rnn_like.engine.recurrence import recurrent_spec
from see_rnn_like.errors import UnsupportedLayerError
from see_rnn_like.extract.arrays import to_numpy
from see_rnn_like.extract.gates import by_direction, recurrent_layer
from see_rnn_like.models.layout import RecurrentPart


def recurrent_spectrum(model: Any, _id: Any) -> xr.Dataset:
    """How the recurrent weights of a layer stretch and turn a state, gate by gate.

    Eigenvalues say what applying a kernel again and again does: in a linear network ``h_t = h_{t−1} W`` what
    is outside the unit circle grows, what is inside fades, and the angle is how far it turns per timestep.
    Singular values say by how much one application can stretch: gradients of a SimpleRNN vanish if all are
    below 1/γ, γ being the largest slope of its activation (1 for tanh), and can explode only if one is above
    (Pascanu, Mikolov & Bengio 2013, "On the difficulty of training recurrent neural networks", section 2.1).
    In LSTM and GRU these kernels act inside the gates only; how long the state itself lasts is for
    `memory_horizon` to say.

    Args:
        model: a built Keras 3 model.
        _id: the layer: name, part of a name, or index in `model.layers`.

    Returns:
        Dataset with `eigenvalues` (complex) and `singular_values`, both ``(gate, index)`` by falling size, of
        two conjugates the one with the positive imaginary part first; a Bidirectional layer has a leading
        ``direction``. Computed in float64. A gate whose kernel holds NaN or Inf has NaN. `attrs`: ``layer``
        and ``cell``.

    Raises:
        UnknownLayerError: if no layer matches.
        ArgumentError: if several do, or the model is not built.
        UnsupportedLayerError: if the layer is not recurrent, its cell is stacked, convolutional or unknown,
            or has no square recurrent kernel per gate.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((9, 3)), keras.layers.SimpleRNN(2, name="rnn")])
        >>> _ = model.layers[0].cell.recurrent_kernel.assign([[0.0, 1.0], [-1.0, 0.0]])  # a quarter turn
        >>> recurrent_spectrum(model, "rnn")["eigenvalues"].sel(gate="hidden").values
        array([0.+1.j, 0.-1.j])
    """
    layer, parts = recurrent_layer(model, _id)
    found = by_direction(parts, [_spectrum(_kernel(part)) for part in parts])
    return found.assign_attrs(layer=layer.name, cell=recurrent_spec(parts[0]).name)


def _kernel(part: RecurrentPart) -> xr.DataArray:
    """The recurrent kernel of one direction, ``(state, gate, unit)``, float64."""
    spec, cell = recurrent_spec(part), part.cells[0]
    variable = getattr(cell, "recurrent_kernel", None) if "recurrent_kernel" in spec.roles else None
    if variable is None:
        raise UnsupportedLayerError(f"{part.rnn.name}: a {spec.name} cell has no recurrent_kernel")
    shape, gates = tuple(variable.shape), len(spec.gates)
    if len(shape) != 2 or shape[1] != gates * shape[0]:
        raise UnsupportedLayerError(
            f"{part.rnn.name}: eigenvalues need one square matrix per gate, a recurrent_kernel of shape "
            f"(units, {gates} · units); that of this {spec.name} cell has shape {shape}"
        )
    return spec.split("recurrent_kernel", to_numpy(variable).astype("float64"))


def _spectrum(kernel: xr.DataArray) -> xr.Dataset:
    matrices = kernel.transpose("gate", "state", "unit").values
    columns = {
        "eigenvalues": (("gate", "index"), np.stack([_eigenvalues(matrix) for matrix in matrices])),
        "singular_values": (("gate", "index"), np.stack([_singular_values(matrix) for matrix in matrices])),
    }
    return xr.Dataset(columns, coords={"gate": kernel["gate"].values})


def _eigenvalues(matrix: np.ndarray) -> np.ndarray:
    if not np.isfinite(matrix).all():
        return np.full(len(matrix), complex(np.nan, np.nan))
    values = np.linalg.eigvals(matrix).astype("complex128")
    return values[np.lexsort((-values.imag, -np.abs(values)))]


def _singular_values(matrix: np.ndarray) -> np.ndarray:
    if not np.isfinite(matrix).all():
        return np.full(len(matrix), np.nan)
    return np.linalg.svd(matrix, compute_uv=False)
