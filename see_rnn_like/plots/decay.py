"""What weight decay and L2 penalties take, by what a run tells of its optimizer and its layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import xarray as xr

from see_rnn_like.history import History
from see_rnn_like.labels import TensorKey

#: Optimizers whose ``weight_decay`` takes the same share of every weight, as `Optimizer` of Keras 3 does
#: (``variable - variable * wd * lr``, before the step along the gradient). Muon's depends on the weight.
_DECOUPLED = {
    *("SGD", "RMSprop", "Adam", "AdamW", "Nadam", "Adamax", "Adagrad", "Adadelta", "Adafactor"),
    *("Ftrl", "Lion", "Lamb"),
}
_LOSS = TensorKey("", None, "loss", "value")


def decay_share(run: History, weight: TensorKey) -> xr.Dataset | None:
    """How much of each update of one weight is weight decay: lr · weight_decay · ‖w‖ / ‖Δw‖.

    Args:
        run: the recorded run.
        weight: key of the weight.

    Returns:
        ``share`` over ``step``, and ``bad``: numbers of NaN and Inf in the weight and its update. The
        share is NaN where the weight was not updated or the learning rate is not known. None if it is
        known nowhere.
    """
    update = TensorKey(weight.layer, weight.direction, weight.role, "update")
    if update not in run.infos():
        return None
    sizes, changes = xr.align(whole_sizes(run, weight), whole_sizes(run, update), join="inner")
    taken = sizes["norm"] * decay_rates(run, sizes["step"].values)
    share = taken / changes["norm"].where(changes["norm"] > 0)
    return _known(share, sizes["bad"] + changes["bad"])


def penalty_share(run: History, weight: TensorKey) -> xr.Dataset | None:
    """How much of the loss is the L2 penalty of one weight: l2 · ‖w‖² / loss.

    Args:
        run: the recorded run.
        weight: key of the weight.

    Returns:
        As of `decay_share`; the share is NaN where the loss is not positive.
    """
    factor = l2_factor(run.meta, weight)
    if not factor or _LOSS not in run.infos():
        return None
    sizes, losses = xr.align(whole_sizes(run, weight), run.stats(_LOSS), join="inner")
    inside = sizes["step"] >= _last_fit(run)
    share = factor * sizes["norm"] ** 2 / losses["mean"].where((losses["mean"] > 0) & inside)
    return _known(share, sizes["bad"] + losses["nan"] + losses["inf"])


def whole_sizes(run: History, key: TensorKey) -> xr.Dataset:
    """``norm`` (L2) of one tensor, all gates together, and ``bad``, its NaN and Inf, over ``step``."""
    table = run.stats(key)
    gates = [dim for dim in ("gate",) if dim in table.dims]
    return xr.Dataset(
        {"norm": (table["norm"] ** 2).sum(gates) ** 0.5, "bad": (table["nan"] + table["inf"]).sum(gates)}
    )


def decay_rates(run: History, steps: np.ndarray) -> np.ndarray:
    """The share of a weight that decay takes at each of these steps: lr · weight_decay.

    Args:
        run: the recorded run.
        steps: optimizer steps ``(step,)``.

    Returns:
        float64 ``(step,)``, NaN where it is not known: without weight decay or an optimizer whose decay is
        known, before the last `fit` (a run keeps the optimizer of the last one), and where no learning rate
        was recorded.
    """
    name, settings = _optimizer(run.meta)
    decay = settings.get("weight_decay")
    if name not in _DECOUPLED or not isinstance(decay, (int, float)) or not decay:
        return np.full(len(steps), np.nan)
    logs = run.logs()
    if "learning_rate" not in logs:
        return np.full(len(steps), np.nan)
    rates = logs["learning_rate"].reindex(step=steps).values
    return np.where(steps >= _last_fit(run), decay * rates, np.nan)


def l2_factor(meta: Mapping[str, Any], weight: TensorKey) -> float | None:
    """The factor of the L2 penalty on a weight, by the model's configuration.

    Args:
        meta: facts of the run.
        weight: key of the weight.

    Returns:
        None if there is none, it is frozen, or there is an L1 penalty too, whose size norms do not tell.

    Example:
        >>> l2 = {"class_name": "L2", "config": {"l2": 0.01}}
        >>> dense = {"config": {"name": "dense", "kernel_regularizer": l2}}
        >>> key = TensorKey("dense", None, "kernel", "weight")
        >>> l2_factor({"model": {"config": {"layers": [dense]}}}, key)
        0.01
    """
    settings = dict(_settings_of_layers(_settings(meta.get("model")), ""))
    found = settings.get((weight.layer, weight.direction)) or settings.get((weight.layer, None)) or {}
    name = "recurrent" if weight.role == "recurrent_kernel" else weight.role
    regularizer = found.get(f"{name}_regularizer") or {}
    if regularizer.get("class_name") not in ("L2", "L1L2") or found.get("trainable") is False:
        return None
    factors = _settings(regularizer)
    return None if factors.get("l1") else float(factors["l2"]) or None


def _known(share: xr.DataArray, bad: xr.DataArray) -> xr.Dataset | None:
    return xr.Dataset({"share": share, "bad": bad}) if share.notnull().any() else None


def _optimizer(meta: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    settings = meta.get("optimizer") or {}
    inner = settings.get("inner_optimizer")  # of a LossScaleOptimizer
    if isinstance(inner, Mapping):
        return str(inner["class_name"]), inner["config"]
    return str(settings.get("class")), settings


def _last_fit(run: History) -> int:
    fits = run.meta.get("fits") or [{}]
    return int(fits[-1].get("first_step", 0))


Place = tuple[str, str | None]


def _settings_of_layers(model: Mapping[str, Any], prefix: str) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    """Path, direction (None for any) and settings of what owns weights, in the configuration of a model."""
    layers = model.get("layers")
    for settings in map(_settings, layers if isinstance(layers, list) else []):
        if "name" in settings:
            path = f"{prefix}{settings['name']}"
            yield from _settings_of_layers(settings, f"{path}/")
            yield from _settings_of_parts(settings, path, None)


def _settings_of_parts(
    settings: Mapping[str, Any], path: str, direction: str | None
) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    """The same for one layer: what is wrapped, directions and cells have settings of their own."""
    yield (path, direction), settings
    forward = "forward" if "backward_layer" in settings else direction
    for name, way in (("layer", forward), ("backward_layer", "backward"), ("cell", direction)):
        if part := _settings(settings.get(name)):
            yield from _settings_of_parts(part, path, way)
    stacked = settings.get("cells")
    cells = [_settings(cell) for cell in stacked] if isinstance(stacked, list) else []
    for cell in cells:
        yield from _settings_of_parts(
            cell, f"{path}/{cell.get('name')}" if len(cells) > 1 else path, direction
        )


def _settings(serialized: Any) -> Mapping[str, Any]:
    """The settings of a serialized Keras object; none if it is something else."""
    found = serialized.get("config") if isinstance(serialized, Mapping) else None
    return found if isinstance(found, Mapping) else {}
