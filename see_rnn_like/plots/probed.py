"""What a run recorded inside recurrent layers on its probe batch, in the form of the one-shot functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import xarray as xr

from see_rnn_like.errors import ArgumentError, UnknownLayerError
from see_rnn_like.history import History
from see_rnn_like.labels import TensorKey
from see_rnn_like.plots.arguments import whole_number

_SIDES = {"left": "saturation_left", "right": "saturation_right"}
_HORIZON = "horizon_"
_NORM = "_norm"


def saturation_layers(run: History) -> list[str]:
    """Layers of a run whose saturation was recorded."""
    return list(dict.fromkeys(key.layer for key in _keys(run, _is_saturation)))


def horizon_layers(run: History) -> list[str]:
    """Layers of a run whose memory horizon was recorded."""
    return list(dict.fromkeys(key.layer for key in _keys(run, _is_horizon)))


def norm_layers(run: History) -> list[str]:
    """Layers of a run whose norms of gradients over time were recorded."""
    return list(dict.fromkeys(key.layer for key in norm_keys(run)))


def norm_keys(run: History) -> list[TensorKey]:
    """Norms of gradients over time that a run recorded."""
    return _keys(run, _is_norm)


def state_of(key: TensorKey) -> str:
    """What a norm over time is the norm of: the name of a state, or ``output``.

    Example:
        >>> state_of(TensorKey("lstm", "forward", "h_norm", "gradient"))
        'h'
    """
    return key.role.removesuffix(_NORM)


def saturation_at(run: History, layer: str | None = None, step: int | None = None) -> xr.Dataset:
    """The recorded saturation of a layer's gates at one step.

    Args:
        run: the recorded run.
        layer: path of the layer; None if the run has one.
        step: recorded step; None for the last one.

    Returns:
        What `gate_saturation` returns; `attrs` also hold ``step`` and ``from``.

    Raises:
        ArgumentError: if none was recorded, at this step or at all, or of several layers and none is named.
        ArgumentTypeError: if `step` is no whole number.
        UnknownLayerError: if none of this layer was recorded.
    """
    keys = _of_layer(_keys(run, _is_saturation), layer, 'capture=("gates", ...)')
    shares = {key: run[key] for key in keys}
    steps = next(iter(shares.values()))["step"].values
    step = int(steps[-1]) if step is None else whole_number("step", step)
    if step not in steps:
        raise ArgumentError(f"step {step} was not recorded; recorded are {', '.join(map(str, steps))}")
    sides = {
        side: _by_direction({k: v for k, v in shares.items() if k.role == role})
        for side, role in _SIDES.items()
    }
    found = xr.Dataset({side: array.sel(step=step) for side, array in sides.items()})
    gates = run.infos().get(TensorKey(keys[0].layer, keys[0].direction, "gates", "value"))
    gating = {"gating": list(gates.attrs["gating"])} if gates and "gating" in gates.attrs else {}
    return found.assign_attrs(layer=keys[0].layer, step=step, **_batch(run, keys[0]), **gating)


def strength_over_training(run: History, layer: str | None = None) -> xr.DataArray:
    """The recorded influence of earlier states on the last one, over training.

    Args:
        run: the recorded run.
        layer: path of the layer; None if the run has one.

    Returns:
        ``(state, step, lag)``, as `strength` of `memory_horizon`; a layer with two directions has a leading
        ``direction``. `attrs`: ``layer`` and ``from``.

    Raises:
        ArgumentError: if none was recorded, or of several layers and none is named.
        UnknownLayerError: if none of this layer was recorded.
    """
    keys = _of_layer(_keys(run, _is_horizon), layer, 'capture=("horizon", ...)')
    names = list(dict.fromkeys(key.role for key in keys))
    states = [_by_direction({key: run[key] for key in keys if key.role == name}) for name in names]
    labels = xr.DataArray([name.removeprefix(_HORIZON) for name in names], dims="state", name="state")
    found = xr.concat(states, labels).assign_coords(lag=range(states[0].sizes["lag"]))
    found = found.transpose(..., "state", "step", "lag").rename("strength")
    return found.assign_attrs(layer=keys[0].layer, **_batch(run, keys[0]))


def _keys(run: History, wanted: Callable[[TensorKey], bool]) -> list[TensorKey]:
    return [key for key, info in run.infos().items() if info.derived and wanted(key)]


def _is_saturation(key: TensorKey) -> bool:
    return key.role in _SIDES.values()


def _is_horizon(key: TensorKey) -> bool:
    return key.role.startswith(_HORIZON)


def _is_norm(key: TensorKey) -> bool:
    return key.role.endswith(_NORM)


def _of_layer(keys: Sequence[TensorKey], layer: str | None, capture: str) -> list[TensorKey]:
    names = list(dict.fromkeys(key.layer for key in keys))
    if not names:
        raise ArgumentError(f"nothing to draw: record with RNNMonitor({capture}, probe=(x, y))")
    if layer is None and len(names) > 1:
        raise ArgumentError(f"several layers were recorded, {', '.join(names)}: pick one with layer=")
    if layer is not None and layer not in names:
        raise UnknownLayerError(
            f"no layer matches {layer!r}; layers with what this draws are: {', '.join(names)}"
        )
    return [key for key in keys if key.layer == (layer or names[0])]


def _by_direction(arrays: dict[TensorKey, xr.DataArray]) -> xr.DataArray:
    """One array of a layer: with a leading ``direction`` if it has two, told if it only runs backwards."""
    directions = [key.direction for key in arrays]
    unnamed = [array.rename(None) for array in arrays.values()]
    if len(unnamed) > 1:
        return xr.concat(unnamed, xr.DataArray(directions, dims="direction", name="direction"))
    return unnamed[0].assign_coords(direction="backward") if directions == ["backward"] else unnamed[0]


def _batch(run: History, key: TensorKey) -> dict[str, str]:
    batch = run.info(key).attrs.get("from")
    return {"from": batch} if batch else {}
