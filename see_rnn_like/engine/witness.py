"""Running a train step again, eagerly, and seeing every tensor that passes: layers, cells, loss, gradients.

It is the model's own `train_step` on the model's own state, so dropout masks are those of the step. The
optimizers only look at the gradients they are given. Nothing of the model changes.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend.common import global_state
from tensorflow.python.eager import context as eager_context

from see_rnn_like.engine.sightings import Call, Note, Record, Sighting, array_of, bad, is_seen
from see_rnn_like.engine.taps import logits_of, numbered_role, observed, observed_head, replaced
from see_rnn_like.engine.untouched import (
    metric_variables,
    state_variables,
    untouched_attributes,
    untouched_variables,
)
from see_rnn_like.engine.watch import optimizers_of
from see_rnn_like.engine.witnessed_cells import watched_cells
from see_rnn_like.models.layout import OutputPoint, Site, WeightSlot, sites


def replay(model: Any, data: Any, replica: int | None = None) -> Record:
    """Runs the model's train step on a batch, eagerly, without training it.

    Args:
        model: a built and compiled Keras 3 model.
        data: what `model.train_step` takes: nested tensors.
        replica: whose seeds and statistics to use under a distribution strategy; None for the first.

    Returns:
        What was seen.
    """
    strategy = model.distribute_strategy
    record = Record(_batch_size(data), min(replica or 0, strategy.num_replicas_in_sync - 1))
    found = sites(model)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_nothing_changes(model))
        stack.enter_context(_eagerly())
        for metric in model.metrics:
            metric.reset_state()
        before = _unfit(model)
        _watch(stack, model, found, record)
        logs = strategy.run(model.train_step, args=(data,))
        _see_logs(record, strategy, logs)
        record.ruined = bool(_unfit(model) - before)
    return record


def _watch(stack: contextlib.ExitStack, model: Any, found: Sequence[Site], record: Record) -> None:
    for site in found:
        stack.enter_context(watched_cells(site, record))
    for point in [*_points(model, found), *_operations(model, "")]:
        stack.enter_context(replaced(point.source, "call", _watched_layer(point, record)))
    stack.enter_context(replaced(model, "call", _watched_model(model, record)))
    stack.enter_context(replaced(model, "compute_loss", _watched_loss(model, found, record)))
    slots = [slot for site in found for slot in site.weights]
    for optimizer in optimizers_of(model):
        stack.enter_context(replaced(optimizer, "apply", _noted_only(optimizer, slots, record)))
        stack.enter_context(replaced(optimizer, "scale_loss", _unscaled))


# -- leaving everything as it was ------------------------------------------------------------------


@contextlib.contextmanager
def _nothing_changes(model: Any) -> Iterator[None]:
    metrics = _user_metrics(model)
    variables = [*state_variables(model), *metric_variables(model)]
    variables += [v.value for metric in metrics for v in metric.variables]
    variables += [v.value for optimizer in optimizers_of(model) for v in optimizer.variables]
    owners = [*model._flatten_layers(), *metrics, *optimizers_of(model)]
    with contextlib.ExitStack() as stack:
        stack.enter_context(_same_randomness())
        stack.enter_context(untouched_variables(list({id(v): v for v in variables}.values())))
        stack.enter_context(untouched_attributes(owners, []))
        for name in ("_compile_loss", "_compile_metrics"):
            _keep_unbuilt(stack, model, name)
        yield


def _keep_unbuilt(stack: contextlib.ExitStack, model: Any, name: str) -> None:
    """Keras builds the compiled loss and metrics at their first use: have it build others in their place."""
    compiled = getattr(model, name, None)
    if compiled is None or compiled.built:
        return
    if name == "_compile_loss":
        another = type(compiled)(
            compiled._user_loss, compiled._user_loss_weights, compiled.reduction, compiled.output_names
        )
    else:
        another = type(compiled)(
            compiled._user_metrics, compiled._user_weighted_metrics, output_names=compiled.output_names
        )
    stack.enter_context(replaced(model, name, another))


def _user_metrics(model: Any) -> list[Any]:
    """Metric objects given to `compile`, which an unbuilt model does not count among its metrics yet."""
    compiled = getattr(model, "_compile_metrics", None)
    given = [getattr(compiled, name, None) for name in ("_user_metrics", "_user_weighted_metrics")]
    return [m for m in tf.nest.flatten(given) if isinstance(m, keras.metrics.Metric)]


@contextlib.contextmanager
def _same_randomness() -> Iterator[None]:
    """Gives back the states of the global random generators of Python, NumPy, TensorFlow and Keras."""
    numbers, arrays = random.getstate(), np.random.get_state()  # noqa: NPY002
    operations = getattr(eager_context.context(), "_rng", None)
    drawn = None if operations is None else operations.getstate()
    if operations is not None:
        # Put back alone, its next seeds would be those of random operations that TensorFlow has kept.
        operations.seed("replay of a train step")
    generator = global_state.get_global_attribute("global_seed_generator")
    seed = None if generator is None else generator.state.value.read_value()
    try:
        yield
    finally:
        random.setstate(numbers)
        np.random.set_state(arrays)  # noqa: NPY002
        if operations is not None:
            operations.setstate(drawn)
        if generator is None:
            global_state.set_global_attribute("global_seed_generator", None)
        else:
            generator.state.assign(seed)


@contextlib.contextmanager
def _eagerly() -> Iterator[None]:
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


# -- layers ----------------------------------------------------------------------------------------


def _points(model: Any, found: Sequence[Site]) -> list[OutputPoint]:
    return [point for site in found for point in site.outputs if point.source is not model]


def _operations(model: Any, prefix: str) -> Iterator[OutputPoint]:
    """The operations between the layers of functional models, nested ones too."""
    for operation in getattr(getattr(model, "_functional", None) or model, "operations", ()):
        if isinstance(operation, keras.Model):
            yield from _operations(operation, f"{prefix}{operation.name}/")
        elif not isinstance(operation, keras.layers.Layer):
            yield OutputPoint(f"{prefix}{operation.name}", None, operation, False)


def _watched_layer(point: OutputPoint, record: Record) -> Callable[..., Any]:
    call = point.source.call

    @functools.wraps(call)
    def watched(*args: Any, **kwargs: Any) -> Any:
        if not record.listens:
            return call(*args, **kwargs)
        number = record.number(point)
        opened = record.begin(point.layer, point.source)
        try:
            args, kwargs = _watched_inputs(point, record, opened, number, (args, kwargs))
            outputs = call(*args, **kwargs)
        finally:
            record.end()
        return _watched_outputs(point, record, opened, number, outputs)

    return watched


def _watched_inputs(point: OutputPoint, record: Record, call: Call, number: int, given: Any) -> Any:
    flat = tf.nest.flatten(given)
    call.inputs += bad(flat)
    passed: dict[int, Any] = {}
    place = -1
    for tensor in flat:
        if not is_seen(tensor) or id(tensor) in passed:
            continue
        place += 1
        passed[id(tensor)] = _watched_input(
            point, record, call, numbered_role("input", place, number), tensor
        )
    # A tensor that is given twice stays one tensor.
    return tf.nest.pack_sequence_as(given, [passed.get(id(tensor), tensor) for tensor in flat])


def _watched_input(point: OutputPoint, record: Record, call: Call, role: str, tensor: Any) -> Any:
    whole = role.split("@")[0] == "input" and _has_time(point.source)
    axes = _axes(point.source, tensor, record.batch, whole or len(tensor.shape) == 3)
    note = Note(call, point.layer, point.direction, role, axes)
    if any(tensor is one for one in call.inputs) and record.producer(tensor) is None:
        # A layer around this one that was given it as well has told of it.
        told = call.parent is not None and any(
            record.root(tensor) is record.root(t) for t in call.parent.inputs
        )
        if not told:
            record.value(note, tensor)
    result = observed(tensor, functools.partial(record.gradient, note))
    if hasattr(tensor, "_keras_logits"):
        # A layer that hands its input on hands on what the loss goes by.
        result._keras_logits = tensor._keras_logits
    record.same(result, tensor)
    return result


def _watched_outputs(point: OutputPoint, record: Record, call: Call, number: int, outputs: Any) -> Any:
    flat = tf.nest.flatten(outputs)
    passed = [
        _watched_output(point, record, call, number, index, tensor) if is_seen(tensor) else tensor
        for index, tensor in enumerate(flat)
    ]
    return tf.nest.pack_sequence_as(outputs, passed)


def _watched_output(
    point: OutputPoint, record: Record, call: Call, number: int, index: int, tensor: Any
) -> Any:
    axes = _axes(point.source, tensor, record.batch, _is_sequence(point.source, tensor, index))
    logits = logits_of(tensor)
    activation = getattr(getattr(point.source, "activation", None), "__name__", None)
    note = Note(
        call,
        point.layer,
        point.direction,
        numbered_role("output", index, number),
        axes,
        reversed_time=point.reversed_time and index == 0 and "time" in axes,
        before=logits,
        activation=activation,
    )
    is_bad = record.value(note, tensor)
    tell = functools.partial(record.gradient, note)
    if logits is None:
        result = observed(tensor, tell)
    else:
        before = Note(None, point.layer, point.direction, numbered_role("logits", index, number), axes)
        result = observed_head(tensor, tell, logits, functools.partial(record.gradient, before))
        record.heads.append((result, before, logits))
    if is_bad:
        call.outputs.append(result)
        record.same(result, tensor)
    return result


def _has_time(layer: Any) -> bool:
    return isinstance(layer, keras.layers.RNN | keras.layers.Bidirectional | keras.layers.TimeDistributed)


def _is_sequence(layer: Any, tensor: Any, index: int) -> bool:
    if isinstance(layer, keras.layers.RNN | keras.layers.Bidirectional):
        return bool(layer.return_sequences) and index == 0
    return len(tensor.shape) == 3 or isinstance(layer, keras.layers.TimeDistributed)


def _axes(layer: Any, tensor: Any, batch: int | None, sequence: bool) -> tuple[str, ...]:
    rank = len(tensor.shape)
    axes = [f"axis_{i}" for i in range(rank)]
    if rank and (batch is None or tensor.shape[0] == batch):
        axes[0] = "sample"
    if rank > 1:
        axes[-1] = "unit"
    if rank > 2 and sequence:
        axes[1] = "time"
    if rank > 3 and getattr(layer, "data_format", None) == "channels_first":
        axes[-1], axes[1 + sequence] = f"axis_{rank - 1}", "unit"
    return tuple(axes)


def _watched_model(model: Any, record: Record) -> Callable[..., Any]:
    """Sees what the model returns, which a model of one's own may compute past all layers."""
    call = model.call

    @functools.wraps(call)
    def watched(*args: Any, **kwargs: Any) -> Any:
        outputs = call(*args, **kwargs)
        if not record.listens:
            return outputs
        number = record.number(model)
        flat = [tensor for tensor in tf.nest.flatten(outputs) if is_seen(tensor)]
        record.predicted += flat
        for index, tensor in enumerate(flat):
            _see_logits(record, tensor)
            if record.producer(tensor) is None:
                axes = _axes(model, tensor, record.batch, len(tensor.shape) == 3)
                record.value(
                    Note(None, model.name, None, numbered_role("output", index, number), axes), tensor
                )
        return outputs

    return watched


def _see_logits(record: Record, predicted: Any) -> None:
    """Keras's cross-entropies go from the logits of a prediction, which may be infinite where it is not."""
    for result, note, logits in record.heads:
        if result is predicted:
            record.predicted.append(logits)
            if next(bad([predicted]), None) is None:
                record.value(note, logits)


# -- loss ------------------------------------------------------------------------------------------


def _watched_loss(model: Any, found: Sequence[Site], record: Record) -> Callable[..., Any]:
    compute_loss = model.compute_loss
    signature = inspect.signature(compute_loss)

    @functools.wraps(compute_loss)
    def watched(*args: Any, **kwargs: Any) -> Any:
        loss = compute_loss(*args, **kwargs)
        if record.listens and is_seen(loss):
            record.loss_seen = True
            if next(bad([loss]), None) is not None:
                given = signature.bind(*args, **kwargs).arguments
                _see_terms(model, found, record, given)
                record.value(Note(None, None, None, "loss", ("sample",)[: len(loss.shape)]), loss, "loss")
        return loss

    return watched


def _see_terms(model: Any, found: Sequence[Site], record: Record, given: dict[str, Any]) -> None:
    """Sees the terms of a loss one by one: the compiled ones, then `add_loss`, then regularizers."""
    compiled = getattr(model, "_compile_loss", None)
    if compiled is not None and given.get("y_pred") is not None:
        _see_compiled(compiled, record, given)
    paths = {id(site.layer): site.path for site in found}
    for layer in model._flatten_layers():
        for term in layer._get_own_losses():
            _see_term(record, paths.get(id(layer), layer.name), term, "loss added by it")
    for slot in (slot for site in found for slot in site.weights):
        regularizer = getattr(slot.variable, "regularizer", None)
        if regularizer is not None and slot.variable.trainable:
            _see_term(record, slot.layer, regularizer(slot.variable), f"regularizer of its {slot.role}")


def _see_term(record: Record, layer: str, term: Any, what: str) -> None:
    term = tf.convert_to_tensor(term)
    if is_seen(term):
        record.value(Note(None, layer, None, "loss", ()), term, "loss", what)


def _see_compiled(compiled: Any, record: Record, given: dict[str, Any]) -> None:
    if not compiled.built:
        # A `compute_loss` of one's own need not use it.
        return
    # Keras 3.0 does not tell the terms of a compiled loss apart.
    terms = getattr(compiled, "_flat_losses", ())
    values: list[tuple[Any, Any]] = []
    with contextlib.ExitStack() as stack:
        for loss in {id(term.loss): term.loss for term in terms}.values():
            if isinstance(loss, keras.losses.Loss):
                stack.enter_context(replaced(loss, "call", _unreduced(loss, values)))
        compiled(given["y"], given["y_pred"], given.get("sample_weight"))
    if len(values) != len(terms):
        return
    for term, (predicted, value) in zip(terms, values, strict=True):
        role = f"loss/{term.name}" if len(terms) > 1 else "loss"
        axes = _loss_axes(value, predicted)
        name = getattr(term.loss, "name", None)
        if is_seen(value):
            record.value(Note(None, None, None, role, axes), value, "loss", name)


def _unreduced(loss: Any, values: list[tuple[Any, Any]]) -> Callable[..., Any]:
    call = loss.call

    @functools.wraps(call)
    def unreduced(y_true: Any, y_pred: Any) -> Any:
        result = call(y_true, y_pred)
        values.append((y_pred, result))
        return result

    return unreduced


def _loss_axes(value: Any, predicted: Any) -> tuple[str, ...]:
    """A loss per sample has the axes of the predictions, mostly without the last."""
    rank = len(predicted.shape) if tf.is_tensor(predicted) else 0
    axes = ["sample", *(f"axis_{i}" for i in range(1, rank - 1)), "unit"][:rank]
    if rank == 3:
        axes[1] = "time"
    if rank == 2 and len(value.shape) == 1:
        return ("sample",)
    return tuple(axes[: len(value.shape)])


def _see_logs(record: Record, strategy: Any, logs: Any) -> None:
    """The loss of a `train_step` of one's own is known by its logs only: ``loss``, or ``g_loss`` say."""
    if record.loss_seen or not isinstance(logs, dict):
        return
    losses = {"loss": logs.get("loss")}
    if any(sighting.weight for sighting in record.sightings):
        # What else goes by such a name may be a mere metric, if no weight feels it.
        losses |= {f"loss/{name}": log for name, log in logs.items() if name.endswith("_loss")}
    for role, log in losses.items():
        loss = strategy.experimental_local_results(log)[0]
        if is_seen(loss) and next(bad([loss]), None) is not None:
            first = [i for i, s in enumerate(record.sightings) if s.phase == "backward"]
            place = first[0] if first else len(record.sightings)
            note = Note(None, None, None, role, ())
            record.sightings.insert(place, Sighting("loss", note, array_of(loss)))
            return


# -- optimizers ------------------------------------------------------------------------------------


def _noted_only(optimizer: Any, slots: Sequence[WeightSlot], record: Record) -> Callable[..., Any]:
    apply = optimizer.apply
    known = {id(slot.variable): place for place, slot in enumerate(slots)}

    @functools.wraps(apply)
    def noted(grads: Any, trainable_variables: Any = None) -> None:
        grads = list(grads)
        if not record.listens:
            return
        given = optimizer._trainable_variables if trainable_variables is None else trainable_variables
        pairs = [(g, v) for g, v in zip(grads, list(given), strict=True) if g is not None]
        # Backward, the last layer comes first.
        pairs.sort(key=lambda pair: -known.get(id(pair[1]), -1))
        for gradient, variable in pairs:
            note = _weight_note(slots, known.get(id(variable)), variable)
            record.weight_gradient(note, gradient)

    return noted


def _weight_note(slots: Sequence[WeightSlot], place: int | None, variable: Any) -> Note:
    if place is None:
        return Note(None, None, None, variable.name, ())
    slot = slots[place]
    return Note(None, slot.layer, slot.direction, slot.role, (), slot=slot)


def _unscaled(loss: Any) -> Any:
    return loss


# -- data ------------------------------------------------------------------------------------------


def _batch_size(data: Any) -> int | None:
    sizes = {int(leaf.shape[0]) for leaf in tf.nest.flatten(data) if tf.is_tensor(leaf) and leaf.shape.rank}
    return sizes.pop() if len(sizes) == 1 else None


def _unfit(model: Any) -> set[int]:
    """Places of the trainable weights that are not finite."""
    return {
        place for place, v in enumerate(model.trainable_weights) if not np.isfinite(array_of(v.value)).all()
    }
