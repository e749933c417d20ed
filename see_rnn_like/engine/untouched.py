"""Leaving a model as it was: its variables and its Python attributes, whatever a forward pass did to them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from see_rnn_like.models.layout import is_variable

_CONTAINERS = (list, dict, set)


def state_variables(model: Any) -> list[Any]:
    """Every variable a forward pass of the model may write.

    Args:
        model: a built Keras 3 model.

    Returns:
        TensorFlow variables: weights (some layers write them in training mode, `SpectralNormalization` for
        one), states of random generators, and what layers hold in attributes without telling Keras, as
        stateful RNNs do. Metrics are in `metric_variables`: they may come later.
    """
    known = [variable.value for variable in model.variables]
    for layer in model._flatten_layers():
        for value in vars(layer).values():
            known.extend(_variables_in(value))
    return by_replica(known)


def metric_variables(model: Any) -> list[Any]:
    """The TensorFlow variables of all metrics a model has by now, of its losses too."""
    return by_replica(variable.value for variable in model.metrics_variables)


def by_replica(variables: Iterable[Any]) -> list[Any]:
    """TensorFlow variables, each once, and each replica's own where they are distributed.

    Read as a whole, a distributed variable gives a mean or a sum over its replicas.
    """
    parts = [part for variable in variables for part in getattr(variable, "values", (variable,))]
    return list({id(part): part for part in parts}.values())


def _variables_in(value: Any) -> Iterator[Any]:
    if is_variable(value):
        yield value.value
    elif isinstance(value, tf.Variable):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _variables_in(item)
    elif isinstance(value, dict):
        for item in list(value.values()):
            yield from _variables_in(item)
    elif isinstance(value, keras.metrics.Metric):
        yield from (variable.value for variable in value.variables)


@contextlib.contextmanager
def untouched_variables(variables: Sequence[Any]) -> Iterator[None]:
    """Gives variables the values back that they have now, after success, exception or Ctrl-C.

    Args:
        variables: TensorFlow variables.
    """
    # Reading a resource variable shares its buffer; TensorFlow copies when one of the two is written.
    saved = [(variable, variable.read_value()) for variable in variables]
    try:
        yield
    finally:
        _put_back(saved)


def _put_back(saved: Sequence[tuple[Any, Any]]) -> None:
    try:
        for variable, value in saved:
            variable.assign(value, read_value=False)
    except KeyboardInterrupt:
        for variable, value in saved:
            variable.assign(value, read_value=False)
        raise


@contextlib.contextmanager
def untouched_attributes(owners: Iterable[Any], kept: list[Any]) -> Iterator[None]:
    """Gives objects back the attributes they have now, contents of lists, dicts and sets included.

    Tracing a model leaves symbolic tensors behind in it (losses, cached masks, whatever a custom layer
    keeps), which are of no use outside the trace and would replace what the user finds there.

    Args:
        owners: layers and other objects with a `__dict__`.
        kept: receives what is removed, which a traced function may still need alive.
    """
    saved = [(owner, dict(vars(owner)), _contents(owner)) for owner in owners]
    try:
        yield
    finally:
        for owner, attributes, contents in saved:
            _restore_attributes(owner, attributes, kept)
            for name, content in contents.items():
                _restore_content(attributes[name], content, kept)


def _contents(owner: Any) -> dict[str, Any]:
    return {
        name: value.copy() if isinstance(value, dict | set) else list(value)
        for name, value in vars(owner).items()
        if issubclass(type(value), _CONTAINERS)
    }


def _restore_attributes(owner: Any, attributes: dict[str, Any], kept: list[Any]) -> None:
    # Below Keras's own __setattr__, which would start tracking the value anew.
    missing = object()
    for name, value in list(vars(owner).items()):
        before = attributes.get(name, missing)
        if before is missing:
            kept.append(value)
            object.__delattr__(owner, name)
        elif before is not value:
            kept.append(value)
            object.__setattr__(owner, name, before)
    for name in attributes.keys() - vars(owner).keys():
        object.__setattr__(owner, name, attributes[name])


def _restore_content(container: Any, content: Any, kept: list[Any]) -> None:
    """Puts the items back with the built-in type's own methods: Keras's subclasses track what is added."""
    if _same_items(container, content):
        return
    kept.append(list(container.values()) if isinstance(container, dict) else list(container))
    if isinstance(container, dict):
        dict.clear(container)
        dict.update(container, content)
    elif isinstance(container, set):
        set.clear(container)
        set.update(container, content)
    else:
        container[:] = content


def _same_items(container: Any, content: Any) -> bool:
    if isinstance(container, set):
        return bool(set.__eq__(container, content))
    if isinstance(container, dict):
        return list(container) == list(content) and all(container[k] is content[k] for k in content)
    return len(container) == len(content) and all(a is b for a, b in zip(container, content, strict=True))
