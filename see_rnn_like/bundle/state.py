"""All numbers of a model and its optimizers, in an order that a model built again has too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from see_rnn_like.engine.guarded import optimizers_of
from see_rnn_like.engine.untouched import metric_variables, state_variables
from see_rnn_like.errors import StoreError


class Variable(NamedTuple):
    """One variable of a bundle.

    Attributes:
        group: ``"model"``, or ``"optimizer"``, ``"optimizer_1"``, … in the order of the model's optimizers.
        path: its path in the model, for people; names Keras makes up differ from model to model.
        value: what it held.
    """

    group: str
    path: str
    value: np.ndarray


def state_of(model: Any) -> list[Variable]:
    """Weights, statistics, RNN states, seeds, optimizer slots and loss scale.

    Metrics are left out: nothing that is computed depends on them.
    """
    return [
        Variable(group, path, np.asarray(variable.numpy())) for group, path, variable in _variables(model)
    ]


def put_in(model: Any, state: Sequence[Variable]) -> None:
    """Gives the variables of a model the values of a bundle.

    Further optimizers that a custom train step keeps for itself and that are not built yet are left alone.

    Args:
        model: built; its compiled optimizer is built if it is not.
        state: as `state_of` returned it.

    Raises:
        StoreError: if the model is not the one the values are from; then nothing was changed.
    """
    _build_optimizer(model)
    targets: dict[str, list[tuple[str, Any]]] = {"model": [], "optimizer": []}
    for group, path, target in _variables(model):
        targets.setdefault(group, []).append((path, target))
    groups: dict[str, list[Variable]] = {}
    for variable in state:
        if variable.group in targets:
            groups.setdefault(variable.group, []).append(variable)
    for group, stored in groups.items():
        _require_same(group, stored, targets[group])
    for group, stored in groups.items():
        for variable, (_, target) in zip(stored, targets[group], strict=True):
            target.assign(variable.value)


def variables_of(model: Any) -> list[Any]:
    """The TensorFlow variables that `put_in` writes."""
    return [variable for _, _, variable in _variables(model)]


def _variables(model: Any) -> Iterator[tuple[str, str, Any]]:
    """Group, path and variable, each variable once."""
    metrics = {id(variable) for variable in metric_variables(model)}
    paths = {id(variable.value): variable.path for variable in model.variables}
    for variable in state_variables(model):
        if id(variable) not in metrics:
            yield "model", paths.get(id(variable), variable.name), variable
    for number, optimizer in enumerate(optimizers_of(model)):
        if not optimizer.built:
            continue
        group = f"optimizer_{number}" if number else "optimizer"
        for variable in {id(one): one for one in optimizer.variables}.values():
            yield group, variable.path, variable.value


def _build_optimizer(model: Any) -> None:
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and not optimizer.built:
        optimizer.build(model.trainable_variables)


def _require_same(group: str, stored: Sequence[Variable], targets: Sequence[tuple[str, Any]]) -> None:
    if len(stored) != len(targets):
        raise StoreError(
            f"the model is not the one of the bundle: {len(stored)} variables are stored for its {group}, "
            f"it has {len(targets)}{_first_unmatched(stored, targets)}; hand in the model as it was trained: "
            "same layers, built, compiled with the same optimizer"
        )
    for variable, (path, target) in zip(stored, targets, strict=True):
        given = (tuple(target.shape), keras.backend.standardize_dtype(target.dtype))
        expected = (variable.value.shape, variable.value.dtype.name)
        if given != expected:
            raise StoreError(
                f"the model is not the one of the bundle: '{path}' of its {group} has shape {given[0]} and "
                f"type {given[1]}, the stored '{variable.path}' has {expected[0]} and "
                f"{expected[1]}; hand in the model as it was trained"
            )


def _first_unmatched(stored: Sequence[Variable], targets: Sequence[tuple[str, Any]]) -> str:
    more = [variable.path for variable in stored[len(targets) :]] or [
        path for path, _ in targets[len(stored) :]
    ]
    return f" (the first without a partner is '{more[0]}')"
