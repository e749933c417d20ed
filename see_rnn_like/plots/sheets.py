"""The weights of a recurrent layer as sheets: what one figure shows, split by direction, cell and gate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from see_rnn_like.cells import STANDARD_ROLES, CellSpec, cell_spec
from see_rnn_like.errors import ArgumentError, ArgumentTypeError, UnsupportedLayerError, one_of
from see_rnn_like.stats import number_arrays

#: Number of weights without a layer to tell what they are → number of directions.
_DIRECTIONS = {2: 1, 3: 1, 4: 2, 6: 2}


@dataclass(frozen=True)
class Sheet:
    """What one figure shows: the weights of one cell.

    Attributes:
        title: title of the figure, may be empty.
        blocks: weights by gate, dims ``(..., gate, unit)``, each named after its role.
    """

    title: str
    blocks: tuple[xr.DataArray, ...]

    @property
    def kernels(self) -> tuple[xr.DataArray, ...]:
        """All weights but the bias."""
        return tuple(block for block in self.blocks if block.name != "bias")

    @property
    def bias(self) -> xr.DataArray | None:
        """The bias if there is one."""
        return next((block for block in self.blocks if block.name == "bias"), None)

    @property
    def gates(self) -> list[str]:
        """Gate names in capitals; one empty name if there is only one gate."""
        names = [str(gate).upper() for gate in self.blocks[0].coords["gate"].values]
        return names if len(names) > 1 else [""]

    def mapped(self, function: Callable[[xr.DataArray], xr.DataArray]) -> Sheet:
        """The sheet with a function applied to every block."""
        return Sheet(self.title, tuple(function(block) for block in self.blocks))


def recurrent_sheets(
    model: Any, _id: Any, layer: Any, input_data: Any, labels: Any, mode: str, data: Sequence[Any] | None
) -> list[Sheet]:
    """Gets the arrays of a layer, if they are not given, and splits them by direction, cell and gate.

    Args:
        model: as in `rnn_heatmap`, and so are the others.
        _id: see `model`.
        layer: see `model`.
        input_data: see `model`.
        labels: see `model`.
        mode: see `model`.
        data: see `model`.

    Returns:
        One sheet per direction, and per cell of stacked ones.
    """
    if mode not in ("weights", "grads"):
        raise one_of("mode", mode, ("weights", "grads"))
    if data is None and mode == "grads" and input_data is None:
        raise ArgumentError("mode='grads' needs input_data, and labels unless input_data yields them")
    if data is None and model is None:
        raise ArgumentError("without data, a model and the _id of a layer (or the layer) are needed")
    if model is None and layer is None:
        return unnamed_sheets(_arrays(data))
    layer, name = _layer_of(model, _id, layer)
    if data is not None:
        return named_sheets(layer, name, _arrays(data))
    if mode == "weights":
        return named_sheets(layer, f"{name} -- weights", _arrays(_weights(model, layer)))
    return named_sheets(layer, f"{name} -- gradients", _arrays(_gradients(model, layer, input_data, labels)))


@dataclass(frozen=True)
class _Slot:
    """Where an array of a layer belongs."""

    direction: str
    cell: int
    role: str
    spec: CellSpec
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.direction} {self.role} {self.shape}"


def named_sheets(layer: Any, title: str, arrays: Sequence[Any]) -> list[Sheet]:
    """Splits the arrays of a layer as its cells have it.

    Args:
        layer: a built recurrent layer.
        title: title of the figures; the direction is added if there are two.
        arrays: one per weight, in the order of `get_rnn_weights`.

    Raises:
        UnsupportedLayerError: if the layer is not recurrent, or its cell is not registered.
        ArgumentError: if they are not as many as the layer's weights, or of other shapes.
    """
    slots = _slots(layer)
    shapes = [None if isinstance(array, xr.DataArray) else array.shape for array in arrays]
    fits = [shape in (None, slot.shape) for shape, slot in zip(shapes, slots, strict=False)]
    if len(arrays) != len(slots) or not all(fits):
        raise ArgumentError(
            f"data must hold the weights of {layer.name!r}: {', '.join(map(str, slots))}; got shapes {shapes}"
        )
    figures: dict[tuple[str, int], list[xr.DataArray]] = {}
    for slot, array in zip(slots, arrays, strict=True):
        block = array if isinstance(array, xr.DataArray) else slot.spec.split(slot.role, array)
        figures.setdefault((slot.direction, slot.cell), []).append(_labelled(block, slot.role))
    several = len({slot.direction for slot in slots}) > 1
    stacked = any(slot.cell for slot in slots)
    titles = [
        title + (f" · {direction.upper()} LAYER" if several else "") + (f" -- CELL {cell}" if stacked else "")
        for direction, cell in figures
    ]
    return [Sheet(name, tuple(blocks)) for name, blocks in zip(titles, figures.values(), strict=True)]


def _slots(layer: Any) -> list[_Slot]:
    from see_rnn_like.models.layout import recurrent_parts

    slots = [
        _Slot(part.direction, i, role, spec, tuple(getattr(cell, role).shape))
        for part in recurrent_parts(layer)
        for i, cell in enumerate(part.cells)
        for spec in [cell_spec(cell)]
        for role in spec.roles
        if getattr(cell, role, None) is not None
    ]
    if not slots:
        raise UnsupportedLayerError(
            f"{layer.name!r} is not a recurrent layer with weights, or is not built yet"
        )
    return slots


def unnamed_sheets(arrays: Sequence[Any]) -> list[Sheet]:
    """Splits arrays without a layer: gates are counted and numbered.

    Args:
        arrays: ``[kernel, recurrent_kernel]`` or with a bias, once or twice.

    Raises:
        ArgumentError: if it is another number of arrays, or their shapes are no recurrent layer's.
    """
    if len(arrays) not in _DIRECTIONS:
        raise ArgumentError(
            f"without a model or layer, data holds kernel, recurrent kernel and maybe bias, for one or two "
            f"directions; got {len(arrays)} arrays: give the layer they are of"
        )
    each = len(arrays) // _DIRECTIONS[len(arrays)]
    titles = [""] if each == len(arrays) else ["FORWARD LAYER", "BACKWARD LAYER"]
    sheets = []
    for i, title in enumerate(titles):
        kernel, recurrent, *bias = arrays[i * each : (i + 1) * each]
        units = recurrent.shape[-2] if recurrent.ndim > 1 else recurrent.shape[-1]
        units = recurrent.sizes["unit"] if isinstance(recurrent, xr.DataArray) else units
        blocks = zip(STANDARD_ROLES, (kernel, recurrent, *bias), strict=False)
        sheets.append(
            Sheet(title, tuple(_labelled(_by_units(role, array, units), role) for role, array in blocks))
        )
    return sheets


def matrix(block: xr.DataArray) -> np.ndarray:
    """The block as a heatmap shows it: ``(rows, gate · unit)``, gate after gate."""
    return block.values.reshape(-1, block.sizes["gate"] * block.sizes["unit"])


def _layer_of(model: Any, _id: Any, layer: Any) -> tuple[Any, str]:
    """The layer and what it is called."""
    if model is None:
        return layer, layer.name
    from see_rnn_like.models.ids import find_layers

    found = find_layers(model, _id, layer)
    if len(found) != 1:
        raise ArgumentError(f"one layer is drawn at a time; got {', '.join(each.name for each in found)}")
    return found[0].layer, found[0].name


def _weights(model: Any, layer: Any) -> list[Any]:
    from see_rnn_like.extract.rnn import get_rnn_weights

    return get_rnn_weights(model, None, layer=layer)


def _gradients(model: Any, layer: Any, input_data: Any, labels: Any) -> list[Any]:
    from see_rnn_like.extract.gradients import get_gradients
    from see_rnn_like.extract.rnn import get_rnn_weights

    variables = get_rnn_weights(model, None, layer=layer, as_tensors=True)
    found = get_gradients(model, None, input_data, labels, mode="weights", params=variables)
    # One array for one variable: a cell with nothing but a kernel.
    return found if isinstance(found, list) else [found]


def _arrays(data: Any) -> list[Any]:
    """Checks the data and joins gates that come one by one."""
    if not isinstance(data, (list, tuple)):
        raise ArgumentTypeError(
            f"data is a list of arrays: kernel, recurrent kernel, bias; got {type(data).__name__}"
        )
    arrays = [_joined(array) for array in data]
    for array in arrays:
        if not array.size:
            raise ArgumentError(f"data holds an empty array: shape {array.shape}")
    return arrays


def _joined(weight: Any) -> Any:
    if isinstance(weight, xr.DataArray):
        if not {"gate", "unit"} <= set(weight.dims):
            raise ArgumentError(f"a labelled weight has the dimensions gate and unit; got {weight.dims}")
        return weight
    if isinstance(weight, (list, tuple)):
        return np.concatenate([number_arrays(gate)[0] for gate in weight], axis=-1)
    return number_arrays(weight)[0]


def _labelled(block: xr.DataArray, role: str) -> xr.DataArray:
    """The block in the order heatmaps need, as numbers matplotlib can draw, named after its role."""
    if "gate" not in block.coords:
        block = block.assign_coords(gate=[f"gate {i}" for i in range(block.sizes["gate"])])
    return block.transpose(..., "gate", "unit").astype("float64").rename(role)


def _by_units(role: str, array: Any, units: int) -> xr.DataArray:
    if isinstance(array, xr.DataArray):
        return array
    if array.shape[-1] % units:
        raise ArgumentError(
            f"the recurrent kernel has {units} units, so the last axis of every weight is a multiple of "
            f"{units}; got shape {array.shape}"
        )
    leading = [f"axis_{i}" for i in range(array.ndim - 2)] + [STANDARD_ROLES[role]] * (array.ndim > 1)
    return xr.DataArray(array.reshape(*array.shape[:-1], -1, units), dims=[*leading, "gate", "unit"])
