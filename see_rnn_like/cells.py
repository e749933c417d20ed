"""What is inside a recurrent cell: the one place that knows gate order, weight layout and the step.

A `CellSpec` describes a cell class. Keras's LSTM, GRU and SimpleRNN cells are known; `register_cell`
adds other people's. A class is looked up along its MRO, so subclasses need no registration.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from see_rnn_like.errors import ArgumentError, UnsupportedLayerError, one_of

#: Role → name of the axis before the gates. The role is also the attribute of the cell that holds it.
STANDARD_ROLES: Mapping[str, str] = {"kernel": "input", "recurrent_kernel": "state", "bias": "side"}
SIDES = ("input", "recurrent")


@dataclass(frozen=True)
class CellSpec:
    """The layout and the mathematics of one class of recurrent cell.

    Weights hold their gates side by side along the last axis, gate after gate, in the order of
    `gates` (this is Keras's own layout).

    Attributes:
        name: how the cell is called in titles, for example ``"LSTM"``.
        gates: gate names in memory order.
        states: state names in the order the cell takes and returns them; the first is the output `h`.
        activate: ``(cell, inputs, h) -> gates``. Inputs ``(..., input)``, previous output
            ``(..., unit)``; returns the activated gates ``(..., gate, unit)``. Every leading axis is a
            batch axis, so all timesteps can be computed in one call.
        advance: ``(cell, gates, states) -> states``. Gates ``(..., gate, unit)`` and the previous
            states, each ``(..., unit)``; returns the new states in the order of `states`.
        roles: role → name of its leading axis, for the weights that are split by gate.
        gating: the gates that open and close, with values from 0 to 1; the others are candidates for the
            new state.
        keeping: the gate whose value is the share of the old state that is kept, if there is one.

    Example:
        >>> import numpy as np
        >>> spec = CellSpec("Toy", ("hidden",), ("h",), activate=None, advance=None)
        >>> spec.split("kernel", np.zeros((3, 4))).sizes
        Frozen({'input': 3, 'gate': 1, 'unit': 4})
    """

    name: str
    gates: tuple[str, ...]
    states: tuple[str, ...]
    activate: Callable[[Any, Any, Any], Any]
    advance: Callable[[Any, Any, Any], Any]
    roles: Mapping[str, str] = field(default_factory=lambda: dict(STANDARD_ROLES))
    gating: tuple[str, ...] = ()
    keeping: str | None = None

    def dims(self, role: str, ndim: int) -> tuple[str, ...]:
        """Dimension names of the split weight.

        Args:
            role: a role of this cell.
            ndim: number of axes of the weight as the cell holds it.

        Returns:
            ``("input", "gate", "unit")`` for a kernel and so on; a GRU's bias has a leading ``side`` if
            `reset_after`; axes before the leading one (convolutional cells) are ``axis_0``, ….

        Raises:
            ArgumentError: if the cell has no such role or the weight has no axis to split.
        """
        if role not in self.roles:
            raise one_of(f"role of {self.name}", role, self.roles)
        if ndim < 1:
            raise ArgumentError(f"a {role} with gates has at least one axis; got a scalar")
        before = (self.roles[role],) if ndim > 1 else ()
        return (*(f"axis_{i}" for i in range(ndim - 2)), *before, "gate", "unit")

    def split(self, role: str, array: Any) -> xr.DataArray:
        """Labels a weight by gate. Shares memory with `array` where NumPy allows it.

        Args:
            role: ``"kernel"``, ``"recurrent_kernel"``, ``"bias"`` or another role of this cell.
            array: the weight, its gradient or its update as the cell holds it, ``(..., gate · unit)``.

        Returns:
            A DataArray of dims `dims(role, array.ndim)`.

        Raises:
            ArgumentError: for an unknown role, or if the last axis does not divide into the gates.

        Example:
            >>> import numpy as np
            >>> spec = CellSpec("Toy", ("a", "b"), ("h",), activate=None, advance=None)
            >>> spec.split("kernel", np.arange(8.0).reshape(1, 8)).sel(gate="b").values
            array([[4., 5., 6., 7.]])
        """
        values = np.asarray(array)
        dims = self.dims(role, values.ndim)
        shape = self.split_shape(role, values.shape)
        coords = {dim: list(labels) for dim, labels in self.coords(dims, shape).items()}
        return xr.DataArray(values.reshape(shape), dims=dims, coords=coords, name=role)

    def coords(self, dims: tuple[str, ...], shape: tuple[int, ...]) -> dict[str, tuple[str, ...]]:
        """Labels of a split weight: the gates, and the sides of a bias that has two."""
        sides = {"side": SIDES} if "side" in dims and shape[dims.index("side")] == len(SIDES) else {}
        return {"gate": self.gates, **sides}

    def split_shape(self, role: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of a weight after the split, ``(..., gate, unit)``.

        Raises:
            ArgumentError: if the last axis does not divide into the gates.
        """
        if not shape or shape[-1] % len(self.gates):
            raise ArgumentError(
                f"the last axis of a {self.name} {role} holds {len(self.gates)} gates "
                f"({', '.join(self.gates)}) of equal size; got shape {tuple(shape)}"
            )
        return (*shape[:-1], len(self.gates), shape[-1] // len(self.gates))

    def join(self, labelled: xr.DataArray) -> np.ndarray:
        """Undoes `split`: back to the array as the cell holds it, bit for bit.

        Args:
            labelled: dims ending in ``gate, unit`` in any order; gates may have been reordered.

        Raises:
            ArgumentError: if the gates are not exactly those of the cell.

        Example:
            >>> import numpy as np
            >>> spec = CellSpec("Toy", ("a", "b"), ("h",), activate=None, advance=None)
            >>> w = np.arange(8.0).reshape(1, 8)
            >>> bool((spec.join(spec.split("kernel", w).sel(gate=["b", "a"])) == w).all())
            True
        """
        found = tuple(str(g) for g in labelled.coords["gate"].values) if "gate" in labelled.coords else ()
        if sorted(found) != sorted(self.gates):
            raise ArgumentError(
                f"joining a {self.name} weight needs the gates {', '.join(self.gates)} once each; "
                f"got {', '.join(found) or 'no gate coordinate'}"
            )
        ordered = labelled.sel(gate=list(self.gates)).transpose(..., "gate", "unit")
        return ordered.values.reshape(*ordered.shape[:-2], -1)


def register_cell(cell_class: type, spec: CellSpec) -> None:
    """Makes a custom cell class known to every function of this package.

    Args:
        cell_class: the class given to `keras.layers.RNN` (or an RNN layer's cell class).
        spec: its layout and mathematics.

    Raises:
        ArgumentError: if the class is registered already.

    Example:
        See ``docs/cells.md`` for an IndRNN cell, complete.
    """
    _register_keras_cells()
    if cell_class in _REGISTRY:
        raise ArgumentError(f"{cell_class.__name__} is registered already, as {_REGISTRY[cell_class].name}")
    _REGISTRY[cell_class] = spec


def cell_spec(cell: Any) -> CellSpec:
    """Finds the spec of a cell by its class, along the MRO.

    Raises:
        UnsupportedLayerError: if neither the class nor a base of it is registered.
    """
    _register_keras_cells()
    for cls in type(cell).__mro__:
        if cls in _REGISTRY:
            return _REGISTRY[cls]
    raise UnsupportedLayerError(
        f"{type(cell).__name__} is not a known recurrent cell; known are "
        f"{', '.join(sorted(cls.__name__ for cls in _REGISTRY))}; "
        "make it known with see_rnn_like.register_cell(cell_class, CellSpec(...))"
    )


def is_known_cell(cell: Any) -> bool:
    """Whether `cell_spec` would find the cell."""
    _register_keras_cells()
    return any(cls in _REGISTRY for cls in type(cell).__mro__)


_REGISTRY: dict[type, CellSpec] = {}


@functools.cache
def _register_keras_cells() -> None:
    # Importing Keras starts TensorFlow; plots and stored runs must work without, so it happens on first use.
    import keras

    # Keras exports the ConvLSTM layers but not the class of their cell.
    from keras.src.layers.rnn.conv_lstm import ConvLSTMCell

    _REGISTRY.update(
        {
            keras.layers.LSTMCell: CellSpec(
                "LSTM",
                ("input", "forget", "cell", "output"),
                ("h", "c"),
                _lstm_gates,
                _lstm_states,
                gating=("input", "forget", "output"),
                keeping="forget",
            ),
            keras.layers.GRUCell: CellSpec(
                "GRU",
                ("update", "reset", "new"),
                ("h",),
                _gru_gates,
                _gru_states,
                gating=("update", "reset"),
                keeping="update",
            ),
            keras.layers.SimpleRNNCell: CellSpec(
                "SimpleRNN", ("hidden",), ("h",), _simple_rnn_gates, _simple_rnn_states
            ),
            ConvLSTMCell: CellSpec(
                "ConvLSTM",
                ("input", "forget", "cell", "output"),
                ("h", "c"),
                _conv_lstm_gates,
                _lstm_states,
                gating=("input", "forget", "output"),
                keeping="forget",
            ),
        }
    )


def _projected(x: Any, kernel: Any, bias: Any) -> Any:
    """``x · kernel + bias``, gates side by side as the kernel has them."""
    from keras import ops

    product = ops.matmul(x, kernel)
    return product if bias is None else product + ops.cast(bias, product.dtype)


def _lstm_gates(cell: Any, inputs: Any, h: Any) -> Any:
    """Hochreiter & Schmidhuber (1997) with forget gates (Gers et al., 2000), in Keras's order."""
    from keras import ops

    z = _projected(inputs, cell.kernel, cell.bias if cell.use_bias else None)
    i, f, g, o = ops.split(z + ops.matmul(h, cell.recurrent_kernel), 4, axis=-1)
    opening = cell.recurrent_activation
    return ops.stack([opening(i), opening(f), cell.activation(g), opening(o)], axis=-2)


def _lstm_states(cell: Any, gates: Any, states: Any) -> tuple[Any, ...]:
    i, f, g, o = (gates[..., k, :] for k in range(4))
    c = f * states[1] + i * g
    return o * cell.activation(c), c


def _conv_lstm_gates(cell: Any, inputs: Any, h: Any) -> Any:
    """Shi et al. (2015), without peepholes; ``(..., *space, input)`` to ``(..., *space, gate, unit)``."""
    from keras import ops

    if cell.data_format != "channels_last":
        raise UnsupportedLayerError(
            f"gates of a ConvLSTM are computed for data_format='channels_last'; {cell.name!r} has "
            f"{cell.data_format!r}"
        )
    one_batch_axis = [(-1, *ops.shape(array)[-cell.rank - 1 :]) for array in (inputs, h)]
    x, state = (ops.reshape(a, shape) for a, shape in zip((inputs, h), one_batch_axis, strict=True))
    z = cell.input_conv(x, cell.kernel, padding=cell.padding)
    z = z + cell.recurrent_conv(state, cell.recurrent_kernel)
    z = ops.reshape(z, (*ops.shape(h)[:-1], 4, cell.filters))
    if cell.use_bias:
        z = z + ops.cast(ops.reshape(cell.bias, (4, -1)), z.dtype)
    i, f, o = (cell.recurrent_activation(z[..., k, :]) for k in (0, 1, 3))
    return ops.stack([i, f, cell.activation(z[..., 2, :]), o], axis=-2)


def _gru_gates(cell: Any, inputs: Any, h: Any) -> Any:
    """Cho et al. (2014); `reset_after`: the reset gate acts after the recurrent product (cuDNN)."""
    from keras import ops

    own = recurrent = None
    if cell.use_bias:
        own, recurrent = (cell.bias[0], cell.bias[1]) if cell.reset_after else (cell.bias, None)
    xz, xr, xn = ops.split(_projected(inputs, cell.kernel, own), 3, axis=-1)
    if cell.reset_after:
        sz, sr, sn = ops.split(_projected(h, cell.recurrent_kernel, recurrent), 3, axis=-1)
        reset = cell.recurrent_activation(xr + sr)
        candidate = reset * sn
    else:
        kernel = ops.convert_to_tensor(cell.recurrent_kernel)
        sz, sr = ops.split(ops.matmul(h, kernel[:, : 2 * cell.units]), 2, axis=-1)
        reset = cell.recurrent_activation(xr + sr)
        candidate = ops.matmul(reset * h, kernel[:, 2 * cell.units :])
    return ops.stack([cell.recurrent_activation(xz + sz), reset, cell.activation(xn + candidate)], axis=-2)


def _gru_states(cell: Any, gates: Any, states: Any) -> tuple[Any, ...]:
    update, new = gates[..., 0, :], gates[..., 2, :]
    return (update * states[0] + (1 - update) * new,)


def _simple_rnn_gates(cell: Any, inputs: Any, h: Any) -> Any:
    """Elman (1990): the one gate is the new state itself."""
    from keras import ops

    z = _projected(inputs, cell.kernel, cell.bias) + ops.matmul(h, cell.recurrent_kernel)
    return cell.activation(z)[..., None, :]


def _simple_rnn_states(cell: Any, gates: Any, states: Any) -> tuple[Any, ...]:
    return (gates[..., 0, :],)
