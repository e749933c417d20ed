"""The reductions of `see_rnn_like.stats`, computed by TensorFlow where the tensors are."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from see_rnn_like.stats import BINS, EXPONENTS, MOMENTS

_PER_SIGN = len(EXPONENTS)


def moments(tensor: Any, gates: int = 1) -> Any:
    """In-graph twin of `stats.moments`.

    Args:
        tensor: floating point, any shape; with gates, these lie side by side along the last axis.
        gates: number of gates.

    Returns:
        float64 ``(gate, moment)``. Sums are taken in float64: squares of float32 cannot overflow there.
    """
    groups = _groups(tensor, gates)
    nan, inf = tf.math.is_nan(groups), tf.math.is_inf(groups)
    broken = tf.logical_or(nan, inf)
    wide = tf.cast(groups, tf.float64)
    kept = tf.where(broken, tf.zeros_like(wide), wide)
    axes = (0, 2)
    columns = {
        "count": tf.fill([gates], tf.cast(tf.size(groups) // gates, tf.float64)),
        "nan": _count(nan),
        "inf": _count(inf),
        "zero": _count(tf.equal(groups, tf.zeros([], groups.dtype))),
        "sum": tf.reduce_sum(kept, axes),
        "square_sum": tf.reduce_sum(tf.square(kept), axes),
        "min": tf.reduce_min(
            tf.where(broken, tf.fill(tf.shape(wide), tf.constant(float("inf"), tf.float64)), wide), axes
        ),
        "max": tf.reduce_max(
            tf.where(broken, tf.fill(tf.shape(wide), tf.constant(float("-inf"), tf.float64)), wide), axes
        ),
    }
    return tf.stack([columns[name] for name in MOMENTS], axis=1)


def histogram(tensor: Any, gates: int = 1) -> Any:
    """In-graph twin of `stats.histogram`: bins are read off the exponent bits of each float.

    Args:
        tensor: floating point, any shape; with gates, these lie side by side along the last axis.
        gates: number of gates.

    Returns:
        int32 ``(gate, bin)``.
    """
    groups = _groups(tensor, gates)
    exponent = (
        tf.clip_by_value(_binary_exponent(groups), int(EXPONENTS[0]), int(EXPONENTS[-1]))
        - int(EXPONENTS[0])
        + 1
    )
    signed = tf.where(groups < 0, -exponent, tf.where(groups > 0, exponent, tf.zeros_like(exponent)))
    # NaN and Inf go to one bin past the last of their gate, which is cut off again.
    bins = tf.where(tf.math.is_finite(groups), signed + _PER_SIGN, BINS)
    offset = tf.reshape(tf.range(gates) * (BINS + 1), (1, gates, 1))
    counts = tf.math.bincount(tf.reshape(bins + offset, [-1]), minlength=gates * (BINS + 1))
    return tf.reshape(counts, (gates, BINS + 1))[:, :BINS]


def _groups(tensor: Any, gates: int) -> Any:
    if tensor.dtype in (tf.float16, tf.bfloat16):
        tensor = tf.cast(tensor, tf.float32)
    return tf.reshape(tensor, (-1, gates, _last_axis(tensor) // gates))


def _last_axis(tensor: Any) -> Any:
    if tensor.shape.rank == 0:
        return 1
    return tensor.shape[-1] if tensor.shape[-1] is not None else tf.shape(tensor)[-1]


def _binary_exponent(groups: Any) -> Any:
    if groups.dtype == tf.float64:
        bits = tf.bitwise.right_shift(tf.bitcast(groups, tf.int64), tf.constant(52, tf.int64))
        return tf.cast(tf.bitwise.bitwise_and(bits, tf.constant(0x7FF, tf.int64)), tf.int32) - 1023
    bits = tf.bitwise.right_shift(tf.bitcast(groups, tf.int32), 23)
    return tf.bitwise.bitwise_and(bits, 0xFF) - 127


def _count(mask: Any) -> Any:
    return tf.cast(tf.math.count_nonzero(mask, axis=(0, 2)), tf.float64)
