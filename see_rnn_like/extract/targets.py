"""What to fetch from a model: layers, inputs and weights named by ids, turned into what the engine takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras

from see_rnn_like.engine.oneshot import InputOf, OutputOf, Wanted, Weight
from see_rnn_like.errors import ArgumentError, UnknownLayerError, UnsupportedLayerError
from see_rnn_like.extract.arrays import to_numpy
from see_rnn_like.models import ids

#: The id of a model's own input where no layer has such a name.
INPUT = "input"


@dataclass(frozen=True)
class Target:
    """One thing to fetch.

    Attributes:
        name: what it is called in a dict.
        wanted: what the engine fetches.
        call: keep this call of a shared layer only; None for all.
        index: keep this tensor of a call only; None for all.
    """

    name: str
    wanted: Wanted
    call: int | None = None
    index: int | None = None


def output_targets(model: Any, _id: Any, layer: Any, x: Any) -> list[Target]:
    """The outputs of layers, and for input layers what goes into the model.

    Args:
        model: a built Keras 3 model.
        _id: as in `get_outputs`.
        layer: overrides `_id`.
        x: the inputs of this call, whose structure tells which of them belongs to an input layer.

    Raises:
        UnknownLayerError: if an id matches nothing.
    """
    if layer is not None:
        return [_output_target(model, found, x) for found in ids.find_layers(model, None, layer)]
    return [
        target
        for item in ids.as_list(_id)
        for target in (
            [Target(INPUT, InputOf(None))] if _is_whole_input(model, item) else _found(model, item, x)
        )
    ]


def _found(model: Any, _id: Any, x: Any) -> list[Target]:
    return [_output_target(model, found, x) for found in ids.find_layers(model, _id)]


def _is_whole_input(model: Any, _id: Any) -> bool:
    if _id != INPUT:
        return False
    try:
        ids.find_layers(model, _id)
    except UnknownLayerError:
        return True
    return False


def _output_target(model: Any, found: ids.NamedLayer, x: Any) -> Target:
    if isinstance(found.layer, keras.layers.InputLayer):
        return Target(found.name, InputOf(_place(model, found.layer.output, x)))
    return Target(found.name, OutputOf(found.layer))


def _place(model: Any, tensor: Any, x: Any) -> int | str:
    """Where in the inputs given the value of one of the model's input tensors stands.

    Raises:
        ArgumentError: if it is missing.
    """
    if isinstance(x, dict):
        keys = model.input if isinstance(model.input, dict) else {t.name: t for t in model.inputs}
        key = str(next(key for key, known in keys.items() if known is tensor))
        if key not in x:
            raise ArgumentError(f"the model takes an input {key!r}; input_data has {', '.join(map(repr, x))}")
        return key
    return next(i for i, known in enumerate(model.inputs) if known is tensor)


def weight_targets(model: Any, _id: Any, layer: Any) -> list[Target]:
    """The trainable weights of layers, or single weights, each once.

    Args:
        model: a built Keras 3 model.
        _id: as in `get_weights`.
        layer: overrides `_id`.

    Raises:
        UnknownLayerError: if an id matches nothing.
        UnsupportedLayerError: if none of what it matches is trainable.
    """
    if layer is None:
        found = [(str(item), ids.find_weights(model, item)) for item in ids.as_list(_id)]
    else:
        names = ids.weight_names(model)
        found = [
            (owner.name, [ids.NamedWeight(names[id(v)], v, owner) for v in owner.layer.weights])
            for owner in ids.find_layers(model, None, layer)
        ]
    trainable = {id(v) for v in model.trainable_weights}
    targets: dict[int, Target] = {}
    for asked, weights in found:
        kept = [weight for weight in weights if id(weight.variable) in trainable]
        if not kept:
            raise UnsupportedLayerError(
                f"nothing trainable in {asked!r} (no weights, or trainable=False); for gradients of "
                "frozen weights pass params=layer.weights"
            )
        targets |= {id(w.variable): Target(w.name, Weight(w.variable)) for w in kept}
    return list(targets.values())


def param_targets(model: Any, params: Any, x: Any) -> list[Target]:
    """Weights, layer outputs and model inputs given as such: variables and symbolic tensors.

    Args:
        model: a built Keras 3 model.
        params: a `keras.Variable` of the model, a symbolic tensor (``layer.output``, ``model.inputs[0]``),
            or a list of them.
        x: the inputs of this call.

    Raises:
        ArgumentError: if one of them is neither, or not part of the model.
    """
    listed = list(params) if isinstance(params, list | tuple) else [params]
    return [_param_target(model, item, x) for item in listed]


def _param_target(model: Any, param: Any, x: Any) -> Target:
    if isinstance(param, keras.KerasTensor):
        return _symbolic_target(model, param, x)
    names = ids.weight_names(model)
    if id(param) not in names:
        raise ArgumentError(
            "params must be variables of this model (layer.weights) or its symbolic tensors (layer.output); "
            f"got {param!r}"
        )
    return Target(names[id(param)], Weight(param))


def _symbolic_target(model: Any, tensor: Any, x: Any) -> Target:
    if any(known is tensor for known in getattr(model, "inputs", None) or ()):
        return Target(tensor.name, InputOf(_place(model, tensor, x)))
    operation, node, index = tensor._keras_history
    named = {id(known.layer): known.name for known in ids.named_layers(model)}
    calls = _calls(model, operation)
    made_here = operation._inbound_nodes[node] in calls if calls else id(operation) in named
    if not made_here:
        raise ArgumentError(
            f"params holds the symbolic tensor {tensor.name!r}, which is not part of this model"
        )
    name = named.get(id(operation), operation.name)
    call = calls.index(operation._inbound_nodes[node]) if len(calls) > 1 else None
    return Target(name, OutputOf(operation), call, index)


def _calls(model: Any, operation: Any) -> list[Any]:
    """The calls of an operation in a functional model, in the order in which the model makes them."""
    graph = getattr(model, "_functional", None) or model
    by_depth = getattr(graph, "_nodes_by_depth", {})
    nodes = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]
    return [node for node in nodes if node.operation is operation]


def named_arrays(
    targets: Sequence[Target], found: Sequence[Sequence[Sequence[Any]]], what: str, every: bool
) -> list[tuple[str, Any]]:
    """Brings what was fetched to NumPy, under names.

    Args:
        targets: what was asked for.
        found: what the engine returned for it.
        what: ``"output"`` or ``"gradient"``, for messages.
        every: whether `'*'` asked for it, so that a layer without it is left out.

    Returns:
        Names and arrays in the order of `targets`. A layer's first tensor has the layer's name, further
        tensors of a call end in ``/output_1`` and so on, further calls of a shared layer in ``@1`` and so on.

    Raises:
        UnsupportedLayerError: if there is nothing to be had of one of `targets`.
    """
    named: list[tuple[str, Any]] = []
    for target, calls in zip(targets, found, strict=True):
        arrays = _arrays_of(target, calls)
        if not arrays and not every:
            raise UnsupportedLayerError(_nothing(target, calls, what))
        named += arrays
    return named


def _arrays_of(target: Target, calls: Sequence[Sequence[Any]]) -> list[tuple[str, Any]]:
    return [
        (_array_name(target.name, call, index), to_numpy(tensor))
        for call, tensors in enumerate(calls)
        for index, tensor in enumerate(tensors)
        if tensor is not None and target.call in (None, call) and target.index in (None, index)
    ]


def _array_name(name: str, call: int, index: int) -> str:
    # The roles of the recorded runs, see engine.taps; the plain output goes by the layer's name alone.
    role = (f"output_{index}" if index else "output") + (f"@{call}" if call else "")
    return name if role == "output" else f"{name}/{role}"


def _nothing(target: Target, calls: Sequence[Sequence[Any]], what: str) -> str:
    if calls:
        return (
            f"{target.name!r} has no {what}: it is not of floating-point type (token ids, masks …); ask for "
            "the layer after it, an Embedding for example"
        )
    return (
        f"{target.name!r} has no {what} to be seen: this forward pass does not call it, or calls it inside a "
        "loop or a tf.function of its own; ask for the layer around it"
    )
