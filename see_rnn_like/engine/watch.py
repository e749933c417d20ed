"""Watching a train step from inside: how large its tensors are, and whether it may update the weights.

Outputs, loss and gradients are looked at as they pass; what the optimizers write waits for the verdict.
"""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from see_rnn_like.engine.aside import aside, is_regrouped
from see_rnn_like.engine.taps import ByReplica, current_graph, numbered_role, replaced, values_of
from see_rnn_like.labels import TensorKey
from see_rnn_like.models.layout import OutputPoint


def optimizers_of(model: Any) -> list[Any]:
    """Every Keras optimizer of a model: the compiled one first, then those that it or a layer keeps."""
    kept = [value for layer in model._flatten_layers() for value in vars(layer).values()]
    candidates = [getattr(model, "optimizer", None), *kept]
    found = [one for one in candidates if isinstance(one, keras.optimizers.Optimizer)]
    inner = {id(getattr(one, "inner_optimizer", None)) for one in found}
    return [one for one in {id(one): one for one in found}.values() if id(one) not in inner]


#: Updates weights: takes an optimizer's `apply`, what it is to be given, and what was seen so far.
Update = Callable[[Callable[..., Any], Sequence[Any], "Seen"], None]


def if_finite(apply: Callable[..., Any], given: Sequence[Any], seen: Seen) -> None:
    """Updates unless something decisive is not finite."""
    tf.cond(seen.finite(), functools.partial(_do, apply, *given), nothing)


def always(apply: Callable[..., Any], given: Sequence[Any], seen: Seen) -> None:
    """Updates in any case; what was written has to be put back afterwards."""
    apply(*given)


@contextlib.contextmanager
def watching(
    model: Any, points: Sequence[OutputPoint], names: Mapping[int, str], update: Update
) -> Iterator[Watch]:
    """Watches a train step in the block, on however many replicas it runs.

    Args:
        model: compiled.
        points: the layers whose outputs are watched.
        names: id of a Keras variable → what its gradient is called.
        update: how weights are updated.

    Yields:
        What is seen, by replica.
    """
    # Under XLA nothing is looked at apart from the graph, see `aside`.
    watch: Watch = ByReplica(functools.partial(Seen, not model.jit_compile))
    with contextlib.ExitStack() as stack:
        for point in points:
            stack.enter_context(replaced(point.source, "call", _watched_call(point, watch)))
        compute_loss = _watched_loss(model.compute_loss, watch)
        stack.enter_context(replaced(model, "compute_loss", compute_loss))
        for optimizer in optimizers_of(model):
            apply = _watched_apply(optimizer, watch, names, update)
            stack.enter_context(replaced(optimizer, "apply", apply))
        yield watch


@dataclass
class Seen:
    """What was seen of one step while it was traced (or run eagerly).

    Attributes:
        apart: whether tensors are looked at apart from the graph, see `aside`.
        names: of the tensors, in execution order.
        peaks: their largest magnitudes, float64.
        decisive: the peaks that raise an alarm.
        calls: how often each layer was called, by its id.
        updates: how often an optimizer was given gradients.
        regrouped: whether one of these may be regrouped with what the update does, see `aside`.
        written: ids of the handles of variables that may have been written before the update.
        graph: in which the step is traced; None for eager.
        copies: made by `aside`.
    """

    apart: bool
    names: list[str] = field(default_factory=list)
    peaks: list[Any] = field(default_factory=list)
    decisive: list[Any] = field(default_factory=list)
    calls: Counter[int] = field(default_factory=Counter)
    updates: int = 0
    regrouped: bool = False
    written: set[int] = field(default_factory=set)
    graph: Any = field(default_factory=current_graph)
    copies: dict[str, Any] = field(default_factory=dict)

    def see(self, name: str, tensor: Any) -> Any:
        """Notes the peak of a tensor and returns it; None for what is out of the step's sight."""
        values = values_of(tensor)
        if not values.dtype.is_floating or _graph_of(values) is not self.graph:
            return None
        peak = peak_of(aside(values, self.copies) if self.apart else values)
        self.names.append(name)
        self.peaks.append(peak)
        return peak

    def finite(self) -> Any:
        """Whether everything decisive so far is."""
        return tf.reduce_all(tf.math.is_finite(tf.stack([tf.zeros((), tf.float64), *self.decisive])))

    def packed(self) -> Any:
        """Float64 ``(1 + tensor,)``: 1 for an alarm, else 0, and the peaks."""
        alarm = tf.cast(tf.logical_not(self.finite()), tf.float64)
        return tf.stack([alarm, *self.peaks])


#: What was seen of one step, by replica.
Watch: TypeAlias = ByReplica[Seen]


def _graph_of(tensor: Any) -> Any:
    return tensor.graph if tf.is_symbolic_tensor(tensor) else None


_BITS = {2: tf.int16, 4: tf.int32, 8: tf.int64}


def peak_of(tensor: Any) -> Any:
    """The largest absolute value of a tensor as a float64 scalar; NaN if it holds one, 0 if it is empty.

    By the bit patterns, which without the sign are ordered as the numbers are, then Inf, then NaN. A bit
    pattern is one more element-wise consumer, with which XLA goes on fusing the tensor as before.
    """
    kind = _BITS[tensor.dtype.size]
    without_sign = tf.bitwise.bitwise_and(tf.bitcast(tensor, kind), tf.constant(kind.max, kind))
    largest = tf.maximum(tf.reduce_max(without_sign), tf.zeros((), kind))
    return tf.cast(tf.bitcast(largest, tensor.dtype), tf.float64)


def _watched_call(point: OutputPoint, watch: Watch) -> Callable[..., Any]:
    call = point.source.call

    @functools.wraps(call)
    def watched(*args: Any, **kwargs: Any) -> Any:
        outputs, seen = call(*args, **kwargs), watch.here
        number = seen.calls[id(point.source)]
        seen.calls[id(point.source)] += 1
        for index, tensor in enumerate(tf.nest.flatten(outputs)):
            role = numbered_role("output", index, number)
            if isinstance(tensor, tf.Tensor):
                seen.see(str(TensorKey(point.layer, point.direction, role, "value")), tensor)
        return outputs

    return watched


def _watched_loss(compute_loss: Callable[..., Any], watch: Watch) -> Callable[..., Any]:
    @functools.wraps(compute_loss)
    def watched(*args: Any, **kwargs: Any) -> Any:
        loss, seen = compute_loss(*args, **kwargs), watch.here
        number = seen.calls[id(compute_loss)]
        seen.calls[id(compute_loss)] += 1
        peak = seen.see(
            str(TensorKey("", None, numbered_role("loss", 0, number), "value")), tf.convert_to_tensor(loss)
        )
        seen.decisive += [] if peak is None else [peak]
        return loss

    return watched


def _watched_apply(
    optimizer: Any, watch: Watch, names: Mapping[int, str], update: Update
) -> Callable[..., Any]:
    apply = optimizer.apply

    @functools.wraps(apply)
    def watched(grads: Any, trainable_variables: Any = None) -> None:
        # Either may be a generator, which gives its items once.
        grads, seen = list(grads), watch.here
        variables = optimizer._trainable_variables if trainable_variables is None else trainable_variables
        variables = list(variables)
        seen.updates += 1
        seen.written |= _maybe_written()
        peaks = [
            seen.see(names.get(id(variable), f"{variable.path.replace('/', '.')}:gradient"), gradient)
            for gradient, variable in reversed(list(zip(grads, variables, strict=True)))
            if gradient is not None
        ]
        seen.regrouped |= any(is_regrouped(values_of(one)) for one in grads if one is not None)
        seen.decisive += _unexcused(optimizer, [peak for peak in peaks if peak is not None])
        _build_optimizer(optimizer, variables)
        update(apply, (grads, variables), seen)

    return watched


def _unexcused(optimizer: Any, peaks: Sequence[Any]) -> list[Any]:
    """The peaks of gradients that raise an alarm.

    Scaled gradients may overflow: the optimizer then leaves the step out and halves the scale. Once there
    is no scale left that could be to blame, they may not.
    """
    scale = getattr(optimizer, "dynamic_scale", None)
    if scale is None:
        return list(peaks)
    to_blame = tf.convert_to_tensor(scale) > 1
    return [tf.where(to_blame, tf.zeros_like(peak), peak) for peak in peaks]


#: Operations that take a variable and only read it.
_READING = {"ReadVariableOp", "ResourceGather", "ResourceGatherNd", "VariableShape"}


def _maybe_written() -> set[int]:
    """Ids of the handles of variables that the graph so far may write, loops and conditions included."""
    graph = current_graph()
    if graph is None:
        return set()
    inside = {
        id(tensor)
        for operation in graph.get_operations()
        if operation.type not in _READING
        for tensor in operation.inputs
        if tensor.dtype == tf.resource
    }
    return {id(outer) for outer, inner in getattr(graph, "captures", ()) if id(inner) in inside}


def _build_optimizer(optimizer: Any, variables: Sequence[Any]) -> None:
    """Makes an optimizer's variables as its `apply` would, but not within a condition."""
    if not optimizer.built:
        with keras.name_scope(optimizer.name, caller=optimizer):
            optimizer.build(variables)
        optimizer.built = True


def _do(apply: Callable[..., Any], *args: Any) -> Any:
    apply(*args)
    return tf.constant(0)


def nothing() -> Any:
    """The branch of a condition in which nothing is done."""
    return tf.constant(0)
