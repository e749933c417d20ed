"""The `_id` rules: how see-rnn's functions name a layer or a weight.

A layer is named by text (part of its name), by its index in `model.layers`, or by a list of these;
``'*'`` is every layer but the input. A weight is named by its layer, by ``(layer, weight index)`` or by
``'layer/weight'``. Layers inside nested models come after those of `model.layers`, so an id that worked in
see-rnn finds the same layer here.
"""

from __future__ import annotations

import difflib
import operator
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from see_rnn_like.errors import ArgumentError, ArgumentTypeError, UnknownLayerError
from see_rnn_like.models import layout

EVERY = "*"
_LAYER_ID = "a name or part of one, an index, a list of these, or '*'"
_WEIGHT_ID = "a layer's name or index, 'layer/weight', (layer, weight index, ...), a list of these, or '*'"


@dataclass(frozen=True)
class NamedLayer:
    """A layer and the name it is asked for and reported by.

    Attributes:
        name: the layer's name in `model.layers`, or its path (``"encoder/lstm_1"``) in a nested model.
        layer: the `keras.Layer`.
    """

    name: str
    layer: Any


@dataclass(frozen=True)
class NamedWeight:
    """A weight, the unique name it is reported by, and the layer it was found through.

    Attributes:
        name: the variable's `path`; preceded by its layer's name where two variables share a path.
        variable: the `keras.Variable`.
        owner: the layer.
    """

    name: str
    variable: Any
    owner: NamedLayer


def as_list(_id: Any) -> list[Any]:
    """One id or several, as a list of ids."""
    return list(_id) if isinstance(_id, list) else [_id]


def unwrap_single(asked: Any, found: list[Any]) -> Any:
    """The one thing found if one was asked for, else the list: see-rnn's rule for what comes back."""
    return found[0] if len(as_list(asked)) == 1 and len(found) == 1 else found


def named_layers(model: Any) -> list[NamedLayer]:
    """Every layer that has a name here: `model.layers` in order, then the layers inside nested models.

    Args:
        model: a Keras 3 model.

    Returns:
        Input layers and nested models included; a layer that is reached twice is listed once.

    Raises:
        ForeignModelError: if it is not a Keras 3 model on the TensorFlow backend.
    """
    layout.require_keras_model(model)
    named = [NamedLayer(layer.name, layer) for layer in model.layers]
    named += _nested_models(model, "")
    named += [NamedLayer(site.path, site.layer) for site in layout.sites(model)]
    return _numbered(named)


def find_layers(model: Any, _id: Any, layer: Any = None) -> list[NamedLayer]:
    """Finds layers by id, in the order they are asked for.

    Args:
        model: a Keras 3 model.
        _id: text: the layer of that name or path, else the first whose name contains it; int: index into
            `model.layers`; list: each of these; ``'*'``: every layer of `model.layers` but the input.
        layer: a layer of the model, or a list; overrides `_id`.

    Returns:
        The layers with their names.

    Raises:
        UnknownLayerError: if an id matches nothing, or `layer` is not part of the model.
        ArgumentTypeError: if an id is none of the above.

    Example:
        >>> import keras
        >>> dense, relu = keras.layers.Dense(2, name="dense"), keras.layers.ReLU(name="relu")
        >>> model = keras.Sequential([keras.Input((3,)), dense, relu])
        >>> [found.name for found in find_layers(model, ["re", 0])]
        ['relu', 'dense']
    """
    named = named_layers(model)
    if layer is not None:
        return [_named_object(model, named, item) for item in as_list(layer)]
    return [found for item in as_list(_id) for found in _layers_by_id(model, named, item)]


def find_weights(model: Any, _id: Any) -> list[NamedWeight]:
    """Finds weights by id, in the order they are asked for, each once.

    Args:
        model: a Keras 3 model.
        _id: a layer's name or index: all its weights; ``(layer, index, ...)`` or ``(layer, (index, ...))``:
            the weights of that layer with these indices; ``'layer/weight'``: the weights of that layer whose
            name is the second part, else those whose path contains it; a weight's full name; a list of these;
            ``'*'``: the weights of every layer.

    Returns:
        The weights with their unique names.

    Raises:
        UnknownLayerError: if an id matches no layer or no weight.
        ArgumentTypeError: if an id is none of the above.
    """
    named = named_layers(model)
    weights = _named_weights(model, named)
    found: dict[int, NamedWeight] = {}
    for item in as_list(_id):
        for weight in _weights_by_id(model, named, weights, item):
            found.setdefault(id(weight.variable), weight)
    return list(found.values())


def weight_names(model: Any) -> dict[int, str]:
    """Unique name of every weight of a model, by the `id` of the variable."""
    return {key: weight.name for key, weight in _named_weights(model, named_layers(model)).items()}


# -- layers -------------------------------------------------------------------------------------


def _numbered(named: Sequence[NamedLayer]) -> list[NamedLayer]:
    """Each layer once, under its first name; a name that is taken gets a number."""
    taken: Counter[str] = Counter()
    found: dict[int, NamedLayer] = {}
    for known in named:
        if id(known.layer) not in found:
            taken[known.name] += 1
            count = taken[known.name]
            name = known.name if count == 1 else f"{known.name}#{count}"
            found[id(known.layer)] = NamedLayer(name, known.layer)
    return list(found.values())


def _nested_models(model: Any, prefix: str) -> Iterator[NamedLayer]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield NamedLayer(f"{prefix}{layer.name}", layer)
            yield from _nested_models(layer, f"{prefix}{layer.name}/")


def _named_object(model: Any, named: Sequence[NamedLayer], layer: Any) -> NamedLayer:
    if not isinstance(layer, keras.layers.Layer):
        raise ArgumentTypeError(f"layer must be a layer of the model or a list of them; got {layer!r}")
    for known in named:
        if known.layer is layer:
            return known
    if not any(inside is layer for inside in model._flatten_layers()):
        raise UnknownLayerError(
            f"layer {layer.name!r} is not part of this model; layers are: {_names(named)}"
        )
    return NamedLayer(layer.path or layer.name, layer)


def _layers_by_id(model: Any, named: Sequence[NamedLayer], _id: Any) -> list[NamedLayer]:
    if _id == EVERY:
        return [named_ for named_ in named[: len(model.layers)] if not _is_input(named_.layer)]
    if isinstance(_id, str):
        return [_by_name(model, named, _id)]
    return [_by_index(model, named, _id, _LAYER_ID)]


def _is_input(layer: Any) -> bool:
    return isinstance(layer, keras.layers.InputLayer)


def _by_name(model: Any, named: Sequence[NamedLayer], name: str) -> NamedLayer:
    top = len(model.layers)
    found = _exact_or_part(named[:top], name) or _exact_or_part(named[top:], name)
    if found is None:
        raise UnknownLayerError(f"no layer matches {name!r}; layers are: {_names(named)}{_near(name, named)}")
    return found


def _exact_or_part(named: Sequence[NamedLayer], name: str) -> NamedLayer | None:
    exact = (known for known in named if name in (known.name, known.layer.name))
    part = (known for known in named if name and name in known.name)
    return next(exact, None) or next(part, None)


def _by_index(model: Any, named: Sequence[NamedLayer], index: Any, expected: str) -> NamedLayer:
    position = _as_index(index, expected)
    count = len(model.layers)
    if not -count <= position < count:
        raise UnknownLayerError(
            f"no layer has index {position}; the model has {count} layers: {_names(named[:count])}"
        )
    return named[position % count]


def _as_index(index: Any, expected: str) -> int:
    try:
        if isinstance(index, bool):
            raise TypeError
        return operator.index(index)
    except TypeError:
        raise ArgumentTypeError(f"_id must be {expected}; got {index!r}") from None


def _names(named: Sequence[NamedLayer]) -> str:
    return ", ".join(known.name for known in named) or "none"


def _near(name: str, named: Sequence[NamedLayer]) -> str:
    names = {text: None for known in named for text in (known.name, known.layer.name)}
    close = difflib.get_close_matches(name, list(names))
    return f"; did you mean {' or '.join(close)}?" if close else ""


# -- weights ------------------------------------------------------------------------------------


def _named_weights(model: Any, named: Sequence[NamedLayer]) -> dict[int, NamedWeight]:
    """Every weight under its unique name; the owner is the innermost layer that has a name."""
    owners = {id(model): NamedLayer("", model), **{id(known.layer): known for known in named}}
    owned: dict[int, tuple[Any, NamedLayer]] = {}
    for owner in sorted(owners.values(), key=lambda known: known.name.count("/") + bool(known.name)):
        for variable in owner.layer.weights:
            owned[id(variable)] = (variable, owner)
    paths = Counter(variable.path for variable, _ in owned.values())
    taken: Counter[str] = Counter()
    found = {}
    for key, (variable, owner) in owned.items():
        name = variable.path if paths[variable.path] == 1 else f"{owner.name}/{_below(owner, variable)}"
        taken[name] += 1
        unique = name if taken[name] == 1 else f"{name}#{taken[name]}"
        found[key] = NamedWeight(unique, variable, owner)
    return found


def _weights_by_id(
    model: Any, named: Sequence[NamedLayer], weights: dict[int, NamedWeight], _id: Any
) -> list[NamedWeight]:
    if isinstance(_id, tuple):
        return _weights_by_indices(model, named, weights, _id)
    if not isinstance(_id, str):
        return _weights_of(_by_index(model, named, _id, _WEIGHT_ID), weights)
    if _id == EVERY:
        found = [weights[id(variable)] for variable in model.weights]
        if not found:
            raise UnknownLayerError(f"no layer of {model.name!r} has weights (is the model built?)")
        return found
    exact = [weight for weight in weights.values() if _id == weight.name]
    return exact or _weights_by_text(model, named, weights, _id)


def _weights_of(owner: NamedLayer, weights: dict[int, NamedWeight]) -> list[NamedWeight]:
    if not owner.layer.weights:
        raise UnknownLayerError(f"layer {owner.name!r} has no weights (none at all, or it is not built yet)")
    return [
        NamedWeight(weights[id(variable)].name, variable, owner)
        for variable in owner.layer.weights
        if id(variable) in weights
    ]


def _weights_by_indices(
    model: Any, named: Sequence[NamedLayer], weights: dict[int, NamedWeight], _id: tuple[Any, ...]
) -> list[NamedWeight]:
    if len(_id) < 2:
        raise ArgumentError(f"a tuple id is (layer, weight index, ...); got {_id!r}")
    layer_id, *indices = _id
    if len(indices) == 1 and isinstance(indices[0], tuple | list):
        indices = list(indices[0])
    by_name = isinstance(layer_id, str)
    owner = _by_name(model, named, layer_id) if by_name else _by_index(model, named, layer_id, _WEIGHT_ID)
    candidates = _weights_of(owner, weights)
    positions = [_as_index(index, _WEIGHT_ID) for index in indices]
    for position in positions:
        if not -len(candidates) <= position < len(candidates):
            raise UnknownLayerError(
                f"layer {owner.name!r} has no weight with index {position}; it has {len(candidates)}: "
                f"{', '.join(weight.name for weight in candidates)}"
            )
    return [candidates[position] for position in positions]


def _weights_by_text(
    model: Any, named: Sequence[NamedLayer], weights: dict[int, NamedWeight], text: str
) -> list[NamedWeight]:
    """Reads ``'layer/weight'``, trying the longest layer part first: nested paths hold slashes too."""
    if "/" not in text or any(text == known.name for known in named):
        return _weights_of(_by_name(model, named, text), weights)
    parts = text.split("/")
    splits = [("/".join(parts[:cut]), "/".join(parts[cut:])) for cut in range(len(parts) - 1, 0, -1)]
    exact = [split for split in splits if any(split[0] in (n.name, n.layer.name) for n in named)]
    layer_part, weight_part = exact[0] if exact else splits[-1]
    owner = _by_name(model, named, layer_part)
    return _matching_weights(owner, _weights_of(owner, weights), weight_part)


def _matching_weights(owner: NamedLayer, candidates: list[NamedWeight], text: str) -> list[NamedWeight]:
    wanted = text.split("/")
    for middle, last in _STRICTNESS:
        found = [c for c in candidates if _fits(wanted, _below(owner, c.variable).split("/"), middle, last)]
        if found:
            return found
    found = [weight for weight in candidates if text and text in _below(owner, weight.variable)]
    if found:
        return found
    raise UnknownLayerError(
        f"no weight of layer {owner.name!r} matches {text!r}; its weights are: "
        f"{', '.join(weight.name for weight in candidates)}"
    )


#: How the parts of a weight id are compared, strictest first: those on the way, and the weight's own name.
_STRICTNESS = (
    (operator.eq, operator.eq),
    (operator.contains, operator.eq),
    (operator.contains, operator.contains),
)


def _fits(wanted: list[str], parts: list[str], middle: Any, last: Any) -> bool:
    """Whether the parts of a path match those wanted, in order, some left out, the last one included."""
    if not wanted[-1] or not last(parts[-1], wanted[-1]):
        return False
    on_the_way = iter(parts[:-1])
    return all(any(middle(part, name) for part in on_the_way) for name in wanted[:-1])


def _below(owner: NamedLayer, variable: Any) -> str:
    """The part of a weight's path below its layer, so that a layer's own name never counts as a match."""
    _, name, below = f"/{variable.path}".partition(f"/{owner.layer.name}/")
    return str(below if name else variable.name)
