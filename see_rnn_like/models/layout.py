"""How a model is laid out: its layers through nesting and wrapping, their weights, their recurrent parts.

The layout gives every layer one path (``encoder/lstm_1``) and every weight one name, so that whatever
is measured anywhere in the package is called the same.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from see_rnn_like import cells
from see_rnn_like.cells import CellSpec
from see_rnn_like.errors import ForeignModelError, UnknownLayerError
from see_rnn_like.labels import TensorKey


@dataclass(frozen=True)
class WeightSlot:
    """One variable of a layer and what it is there.

    Attributes:
        layer: path of the layer that owns it; within stacked cells the cell's name is appended.
        direction: ``"forward"`` or ``"backward"`` inside a recurrent layer, else None.
        role: ``kernel``, ``recurrent_kernel``, ``bias``, or the variable's own name.
        variable: the `keras.Variable`.
        spec: the cell's spec if the weight is split by gate, else None.
    """

    layer: str
    direction: str | None
    role: str
    variable: Any
    spec: CellSpec | None

    def key(self, kind: str) -> TensorKey:
        """The key of the weight, its gradient or its update."""
        return TensorKey(self.layer, self.direction, self.role, kind)


@dataclass(frozen=True)
class OutputPoint:
    """A layer whose output can be seen, and what that output is called.

    Attributes:
        layer: path of the layer.
        direction: as in `WeightSlot`; None for the merged output of a Bidirectional.
        source: the `keras.Layer` that computes it.
        reversed_time: whether it leaves the layer last timestep first (`go_backwards` with
            `return_sequences`), so that it must be turned round to stand in input order.
    """

    layer: str
    direction: str | None
    source: Any
    reversed_time: bool


@dataclass(frozen=True)
class Site:
    """One layer of a model, counted once however often it is called.

    The two layers inside a `Bidirectional` belong to its site, also where they are used on their own.

    Attributes:
        path: unique path through nested models.
        layer: the `keras.Layer`.
        weights: its variables of floating-point type, without those of layers that have a site of their own.
        outputs: where its outputs can be seen.
    """

    path: str
    layer: Any
    weights: tuple[WeightSlot, ...]
    outputs: tuple[OutputPoint, ...]


@dataclass(frozen=True)
class RecurrentPart:
    """One direction of a recurrent layer: the `keras.layers.RNN` that runs it."""

    direction: str
    rnn: Any

    @property
    def cells(self) -> tuple[Any, ...]:
        """Its cells, bottom first; one unless they are stacked."""
        cell = self.rnn.cell
        return tuple(cell.cells) if isinstance(cell, keras.layers.StackedRNNCells) else (cell,)


def require_keras_model(model: Any) -> None:
    """Refuses what the package cannot look into.

    Raises:
        ForeignModelError: for anything but a Keras 3 model on the TensorFlow backend, naming the way out.
    """
    if not isinstance(model, keras.Model):
        kind = type(model)
        if any(cls.__module__.startswith(("tf_keras", "keras.src.engine")) for cls in kind.__mro__):
            raise ForeignModelError(
                f"{kind.__module__}.{kind.__name__} is a Keras 2 model; see_rnn_like looks into Keras 3 "
                "models: build it with `import keras` (Keras 3), and unset TF_USE_LEGACY_KERAS"
            )
        raise ForeignModelError(f"expected a keras.Model; got {kind.__module__}.{kind.__name__}")
    if keras.backend.backend() != "tensorflow":
        raise ForeignModelError(
            f"this model runs on the {keras.backend.backend()!r} backend, which has no engine yet; set the "
            "environment variable KERAS_BACKEND=tensorflow before Keras is imported"
        )


def is_variable(value: Any) -> bool:
    """Whether something is a Keras variable.

    By what it has, not by its class: the `keras.Variable` of Keras 3.0 is no base of its own variables.
    """
    return hasattr(value, "path") and hasattr(value, "assign")


def sites(model: Any) -> list[Site]:
    """Every layer of a model that computes something, in the order of `model.layers`, nested ones in place.

    Args:
        model: a built Keras 3 model.

    Returns:
        One `Site` per layer; input layers and containers (nested models) have none.

    Raises:
        ForeignModelError: if it is not a Keras 3 model on the TensorFlow backend.
    """
    require_keras_model(model)
    found: list[Site] = []
    paths: Counter[str] = Counter()
    walked = list(_walk(model, ""))
    seen = {id(inner) for _, layer in walked for inner in _directions(layer)}
    for path, layer in walked:
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        paths[path] += 1
        unique = path if paths[path] == 1 else f"{path}#{paths[path]}"
        found.append(Site(unique, layer, tuple(_weight_slots(layer, unique)), _output_points(layer, unique)))
    return found


def select(found: Sequence[Site], wanted: Iterable[Any] | str | None) -> list[Site]:
    """Keeps the sites a user asked for.

    Args:
        found: the result of `sites`.
        wanted: layer paths, names, parts of paths, or layer objects; one or several; None for all.

    Returns:
        The matching sites in their own order. An exact path or name matches that layer, a path of a
        nested model all layers in it, any other text every layer whose path contains it.

    Raises:
        UnknownLayerError: if one of `wanted` matches nothing.
    """
    if wanted is None:
        return list(found)
    if isinstance(wanted, str | keras.layers.Layer):
        wanted = [wanted]
    kept: set[int] = set()
    for item in wanted:
        matches = _matching(found, item)
        if not matches:
            shown = item if isinstance(item, str) else getattr(item, "name", item)
            raise UnknownLayerError(
                f"no layer matches {shown!r}; layers are: {', '.join(site.path for site in found)}"
            )
        kept.update(id(site) for site in matches)
    return [site for site in found if id(site) in kept]


def recurrent_parts(layer: Any) -> list[RecurrentPart]:
    """The directions of a recurrent layer, forward first; none for any other layer.

    Args:
        layer: a `keras.layers.RNN` (LSTM, GRU, …), a `Bidirectional` of one, or a wrapper around these.
    """
    if isinstance(layer, keras.layers.Bidirectional):
        return [
            RecurrentPart("forward", layer.forward_layer),
            RecurrentPart("backward", layer.backward_layer),
        ]
    if isinstance(layer, keras.layers.RNN):
        return [RecurrentPart("backward" if layer.go_backwards else "forward", layer)]
    if isinstance(layer, keras.layers.Wrapper):
        return recurrent_parts(layer.layer)
    return []


def _walk(model: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if not prefix and _has_own_weights(model):
        yield model.name, model
    for layer in model.layers if isinstance(model, keras.Model) else _sublayers(model):
        if isinstance(layer, keras.layers.InputLayer):
            continue
        path = f"{prefix}{layer.name}"
        if not isinstance(layer, keras.Model) or _has_own_weights(layer):
            yield path, layer
        if not _is_leaf(layer):
            yield from _walk(layer, f"{path}/")


def _sublayers(layer: Any) -> list[Any]:
    # Keras has no public list of the layers inside a layer; Model.layers itself is made this way.
    return list(layer._flatten_layers(include_self=False, recursive=False))


def _has_own_weights(model: Any) -> bool:
    """Whether a model made weights itself, as subclassed ones can."""
    inside = {id(v) for layer in _sublayers(model) for v in layer.variables}
    return any(id(v) not in inside for v in model.weights)


def _directions(layer: Any) -> list[Any]:
    """The two layers inside a `Bidirectional`; none for any other layer."""
    if not isinstance(layer, keras.layers.Bidirectional):
        return []
    return [part.rnn for part in recurrent_parts(layer)]


def _is_leaf(layer: Any) -> bool:
    return isinstance(layer, keras.layers.RNN | keras.layers.Bidirectional | keras.layers.Wrapper)


def _matching(found: Sequence[Site], item: Any) -> list[Site]:
    if not isinstance(item, str):
        exact = [site for site in found if any(one is item for one in (site.layer, *_directions(site.layer)))]
        within = (
            {id(layer) for layer in item._flatten_layers()} if hasattr(item, "_flatten_layers") else set()
        )
        return exact or [site for site in found if id(site.layer) in within]
    exact = [site for site in found if item in (site.path, site.layer.name)]
    exact = exact or [site for site in found if item in [one.name for one in _directions(site.layer)]]
    inside = [site for site in found if site.path.startswith(f"{item}/")]
    return exact or inside or [site for site in found if item and item in site.path]


def _output_points(layer: Any, path: str) -> tuple[OutputPoint, ...]:
    if isinstance(layer, keras.layers.Bidirectional):
        parts = [
            OutputPoint(path, part.direction, part.rnn, part.rnn.go_backwards and part.rnn.return_sequences)
            for part in recurrent_parts(layer)
        ]
        return (*parts, OutputPoint(path, None, layer, False))
    if isinstance(layer, keras.layers.RNN):
        (part,) = recurrent_parts(layer)
        return (OutputPoint(path, part.direction, layer, layer.go_backwards and layer.return_sequences),)
    if isinstance(layer, keras.Model):
        return ()
    return (OutputPoint(path, None, layer, False),)


def _weight_slots(layer: Any, path: str) -> Iterator[WeightSlot]:
    taken: set[int] = {id(v) for part in recurrent_parts(layer) for v in part.rnn.states or ()}
    for part in recurrent_parts(layer):
        for cell in part.cells:
            owner = f"{path}/{cell.name}" if len(part.cells) > 1 else path
            for slot in _cell_slots(cell, owner, part.direction):
                taken.add(id(slot.variable))
                yield slot
    if not _is_leaf(layer):
        taken |= {id(v) for sublayer in _sublayers(layer) for v in sublayer.variables}
    rest = [v for v in layer.weights if id(v) not in taken]
    yield from _named_slots(rest, path, None)


def _cell_slots(cell: Any, path: str, direction: str) -> Iterator[WeightSlot]:
    spec = cells.cell_spec(cell) if cells.is_known_cell(cell) else None
    by_gate: dict[int, str] = {}
    if spec is not None:
        by_gate = {id(getattr(cell, role, None)): role for role in spec.roles}
    known = [v for v in cell.weights if id(v) in by_gate]
    for variable in known:
        yield WeightSlot(path, direction, by_gate[id(variable)], variable, spec)
    yield from _named_slots([v for v in cell.weights if id(v) not in by_gate], path, direction)


def _named_slots(variables: Sequence[Any], path: str, direction: str | None) -> Iterator[WeightSlot]:
    floating = [v for v in variables if "float" in str(v.dtype)]
    names = Counter(v.name for v in floating)
    taken: Counter[str] = Counter()
    for variable in floating:
        # Two variables of one name in one layer (a wrapper's, say) are told apart by their own paths.
        name = variable.name if names[variable.name] == 1 else ".".join(variable.path.split("/")[1:])
        role = name.replace("/", ".").replace(":", ".")
        if _OUTPUT_ROLE.match(role):
            role = f"weight_{role}"
        taken[role] += 1
        yield WeightSlot(
            path, direction, role if taken[role] == 1 else f"{role}#{taken[role]}", variable, None
        )


#: Roles of what a layer puts out; a weight of such a name is called ``weight_output`` and so on.
_OUTPUT_ROLE = re.compile(r"(output|logits|loss)([_@]\d+)*$")
