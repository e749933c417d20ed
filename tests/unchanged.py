"""A model, its optimizer and the caller's arrays, hashed before and after."""

from __future__ import annotations

import contextlib
import hashlib

import keras
import numpy as np
import tensorflow as tf


def _digest(array):
    array = np.asarray(array)
    return (array.dtype.str, array.shape, hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest())


def _leaves(value):
    if isinstance(value, keras.Variable | tf.Variable):
        return [value]
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in _leaves(item)]
    return []


def _variables(model):
    found = [*model.variables, *model.metrics_variables]
    if getattr(model, "optimizer", None) is not None:
        found += model.optimizer.variables
    for layer in model._flatten_layers():
        for value in vars(layer).values():
            found += _leaves(value)
    return {f"{v.name}:{id(v)}": _digest(v.numpy()) for v in found}


def _attributes(model):
    """Every attribute of every layer by identity, containers item by item."""
    found = {}
    owners = [*model._flatten_layers()]
    if getattr(model, "_compile_loss", None) is not None:
        owners.append(model._compile_loss)
    for owner in owners:
        for name, value in vars(owner).items():
            key = (owner.name, id(owner), name)
            found[key] = id(value)
            if isinstance(value, list | tuple | set):
                found[key, "items"] = sorted(map(id, value)) if isinstance(value, set) else [*map(id, value)]
            elif isinstance(value, dict):
                found[key, "items"] = [(repr(k), id(v)) for k, v in value.items()]
    return found


def snapshot(model, *arrays):
    return {
        "variables": _variables(model),
        "attributes": _attributes(model),
        "metrics": model.metrics_names if model.compiled else None,
        "arrays": [_digest(leaf) for leaf in keras.tree.flatten(list(arrays)) if leaf is not None],
        "array attributes": [
            sorted(getattr(leaf, "__dict__", {})) for leaf in keras.tree.flatten(list(arrays))
        ],
        "floatx": keras.config.floatx(),
    }


@contextlib.contextmanager
def nothing_changes(model, *arrays):
    before = snapshot(model, *arrays)
    yield
    after = snapshot(model, *arrays)
    for part, was in before.items():
        if isinstance(was, dict):
            changed = [key for key in was.keys() | after[part].keys() if was.get(key) != after[part].get(key)]
            assert not changed, f"{part} changed: {changed}"
        assert after[part] == was, f"{part} changed"
