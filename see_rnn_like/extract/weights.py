"""Weights by see-rnn's ids, and statistics of their norms."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from see_rnn_like.errors import ArgumentError
from see_rnn_like.extract.arrays import to_numpy
from see_rnn_like.models import ids
from see_rnn_like.models.ids import NamedWeight

#: stats[layer name][weight index][stat index] is a list with one number per call.
NormStats = dict[str, list[list[list[Any]]]]
_NormFn = Callable[..., Any] | tuple[Callable[..., Any], Callable[..., Any]]


def get_weights(
    model: Any,
    _id: Any,
    omit_names: str | list[str] | None = None,
    as_tensors: bool = False,
    as_dict: bool = False,
) -> Any:
    """Weights of layers, or single weights.

    Args:
        model: a built Keras 3 model.
        _id: a layer's name, part of it, or its index: all its weights; ``(layer, index, ...)``: the weights
            of that layer with these indices; ``'layer/weight'``: the weight of that name, else those whose
            path contains it; a weight's full name; a list of these; ``'*'``: the weights of every layer.
        omit_names: text or list of texts; weights whose full name contains one of them are left out.
        as_tensors: return the `keras.Variable`s themselves instead of NumPy copies.
        as_dict: return ``{full name: weight}``; the full name is the variable's `path`.

    Returns:
        The weight if one id is given and one weight found, otherwise a list in the order asked for (each
        weight once), or a dict.

    Raises:
        UnknownLayerError: if an id matches no layer or no weight; the message lists what there is.
        ForeignModelError: if it is not a Keras 3 model on the TensorFlow backend.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((9, 3)), keras.layers.LSTM(2, name="lstm")])
        >>> get_weights(model, "lstm/kernel").shape
        (3, 8)
        >>> [w.shape for w in get_weights(model, (0, (2, 1)))]
        [(8,), (2, 8)]
    """
    found = _without(ids.find_weights(model, _id), omit_names)
    values = [weight.variable if as_tensors else to_numpy(weight.variable) for weight in found]
    if as_dict:
        return {weight.name: value for weight, value in zip(found, values, strict=True)}
    return ids.unwrap_single(_id, values)


def weights_norm(
    model: Any,
    _id: Any,
    _dict: NormStats | None = None,
    stat_fns: Sequence[Callable[..., Any]] = (np.max, np.mean),
    norm_fn: _NormFn = (np.sqrt, np.square),
    omit_names: str | list[str] | None = None,
    axis: int = -1,
    verbose: int = 0,
) -> NormStats:
    """Statistics of weight norms, to be followed over training by passing the last result back in.

    The norm of a weight is ``outer(sum(inner(weight)))``, the sum over all axes but `axis`; by default
    the L2 norm of what leads to each unit.

    Args:
        model: a built Keras 3 model.
        _id: as in `get_weights`.
        _dict: the result of the last call, to which this one is added; it is not changed itself.
        stat_fns: functions of the norms (one number per index of `axis`) that return a number.
        norm_fn: ``(outer, inner)``, or `inner` alone.
        omit_names: as in `get_weights`.
        axis: the axis that is kept.
        verbose: 1 prints per layer its index in `model.layers` (its path if it is nested) and the newest
            statistics: ``index s, s -- s, s``, weights separated by ``--``.

    Returns:
        ``stats[layer name][weight index][stat index]``, a list that grows by one number per call.

    Raises:
        UnknownLayerError: if an id matches no layer or no weight.
        ArgumentError: if a weight has no such `axis`, or `_dict` comes from another set of weights.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="dense")])
        >>> model.set_weights([np.array([[3.0], [4.0]]), np.array([1.0])])
        >>> stats = weights_norm(model, "dense", stat_fns=(np.max,))
        >>> [[float(x) for x in stat] for stats_of_weight in stats["dense"] for stat in stats_of_weight]
        [[5.0], [1.0]]
    """
    by_layer: dict[str, list[NamedWeight]] = {}
    for weight in _without(ids.find_weights(model, _id), omit_names):
        by_layer.setdefault(weight.owner.name, []).append(weight)
    stats = copy.deepcopy(_dict) if _dict else {}
    for name, weights in by_layer.items():
        newest = [_norm_stats(weight, stat_fns, norm_fn, axis) for weight in weights]
        _append(stats, name, newest)
        if verbose:
            position = _position(model, weights[0].owner.layer)
            print(_line(name if position is None else position, newest))  # noqa: T201 verbose asks for it
    return stats


def _without(found: list[NamedWeight], omit_names: str | list[str] | None) -> list[NamedWeight]:
    omit = [omit_names] if isinstance(omit_names, str) else list(omit_names or ())
    return [weight for weight in found if not any(text in weight.name for text in omit)]


def _norm_stats(
    weight: NamedWeight, stat_fns: Sequence[Callable[..., Any]], norm_fn: _NormFn, axis: int
) -> list[Any]:
    values = to_numpy(weight.variable)
    if values.ndim and not -values.ndim <= axis < values.ndim:
        raise ArgumentError(f"axis {axis} is not an axis of {weight.name} with shape {values.shape}")
    outer, inner = (_same, norm_fn) if callable(norm_fn) else norm_fn
    # Sums of half-precision squares overflow at 65504.
    wide = values.astype("float32") if values.dtype == np.float16 else values
    reduced = tuple(a for a in range(values.ndim) if a != axis % max(values.ndim, 1))
    norms = outer(np.sum(inner(wide), axis=reduced))
    return [stat(norms) for stat in stat_fns]


def _same(values: Any) -> Any:
    return values


def _append(stats: NormStats, name: str, newest: list[list[Any]]) -> None:
    layer = stats.setdefault(name, [[[] for _ in row] for row in newest])
    if [len(row) for row in layer] != [len(row) for row in newest]:
        raise ArgumentError(
            f"_dict holds {[len(row) for row in layer]} statistics per weight of {name!r}, this call made "
            f"{[len(row) for row in newest]}; pass the result of a call with the same ids and stat_fns"
        )
    for row, values in zip(layer, newest, strict=True):
        for stat, value in zip(row, values, strict=True):
            stat.append(value)


def _position(model: Any, layer: Any) -> int | None:
    return next((i for i, known in enumerate(model.layers) if known is layer), None)


def _line(label: int | str, newest: list[list[Any]]) -> str:
    return f"{label} " + " -- ".join(", ".join(f"{value:.4f}" for value in row) for row in newest)
