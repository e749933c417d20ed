"""Computing a tensor of a graph a second time, so that looking at it leaves the graph's own rounding alone.

TensorFlow's graph optimizer (Grappler, `arithmetic_optimizer.cc`: AddOpsRewrite, MinimizeBroadcasts,
HoistCommonFactorOutOfAggregation) regroups sums and products in which every intermediate result has one
consumer: ``rate * (a * b)`` becomes ``(rate * a) * b``. Taking an intermediate result out makes a second
consumer, the regrouping does not happen, and the last bit of the weights may differ. So a sum or product is
taken out as a copy, down to the operations that are never regrouped; the copies are cheap element-wise ones.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

#: What is regrouped, and the names of the inputs.
_REGROUPED = {"Add": ("x", "y"), "AddV2": ("x", "y"), "Sub": ("x", "y"), "Mul": ("x", "y")}

#: Operations of other attributes are not merged with what they are copies of.
_MARK = "_see_rnn_like_copy"


def aside(tensor: Any, copies: dict[str, Any]) -> Any:
    """The same number, from operations that nothing else in the graph depends on.

    Args:
        tensor: of the graph that is being traced, or eager.
        copies: those made so far in this graph, by the name of the original; is added to.
    """
    # In half precision a product is rounded once where it is fused with the bias that is added to it, which a
    # copy of the sum, a second consumer of the product, would keep from happening.
    if tensor.dtype.size < 4 or not is_regrouped(tensor):
        return tensor
    tensor = _original(tensor)
    if tensor.name not in copies:
        copies[tensor.name] = _copied(tensor.op, [aside(one, copies) for one in tensor.op.inputs])
    return copies[tensor.name]


def is_regrouped(tensor: Any) -> bool:
    """Whether a tensor is computed by an operation that may be regrouped with those that take it."""
    return tf.is_symbolic_tensor(tensor) and _original(tensor).op.type in (*_REGROUPED, "AddN")


def _original(tensor: Any) -> Any:
    """What is handed on: identities are removed before anything is regrouped; every tap is one."""
    while tensor.op.type in ("Identity", "IdentityN"):
        tensor = tensor.op.inputs[tensor.value_index]
    return tensor


def _copied(op: Any, inputs: list[Any]) -> Any:
    make = getattr(tf.raw_ops, op.type)
    copy = (
        make(inputs=inputs)
        if op.type == "AddN"
        else make(**dict(zip(_REGROUPED[op.type], inputs, strict=True)))
    )
    copy.op._set_attr(_MARK, tf.compat.v1.AttrValue(b=True))
    return copy
